"""Which machine runs what was compiled for which. The machines are made up; the one here has no GPU."""

from __future__ import annotations

import pytest
import torch

from fxcache.package import hardware
from fxcache.package.hardware import accelerators, misfit


def say(monkeypatch: pytest.MonkeyPatch, here: dict[str, str]) -> None:
    """Let there be these devices, by name, and what they are."""
    kinds = {torch.device(name).type for name in here}
    monkeypatch.setattr(
        hardware,
        "is_usable",
        lambda device: str(device) in here or (device.index is None and device.type in kinds),
    )
    monkeypatch.setattr(hardware, "_described", lambda device: here[str(device)])


@pytest.mark.parametrize(
    ("built", "here", "runs"),
    [
        ("8.0", "8.0", True),
        ("8.0", "8.6", True),
        ("8.6", "8.0", False),
        ("8.0", "9.0", False),
        ("9.0", "9.0", True),
        ("10.0", "10.3", False),  # compiled for sm_100a, which no other runs
        ("12.0", "12.1", False),
        ("gfx942", "gfx942", True),
        ("gfx90a", "gfx942", False),
        ("gfx1100", "gfx1101", False),  # the same major number says nothing on ROCm
        ("9.0", "gfx942", False),
        ("Data Center GPU Max 1550", "Arc B580", False),
    ],
)
def test_code_runs_on_its_own_kind(
    monkeypatch: pytest.MonkeyPatch, built: str, here: str, runs: bool
) -> None:
    say(monkeypatch, {"cuda:0": here})
    found = misfit({"cuda": built}, ["cuda:0", "cpu"])
    assert (found is None) == runs
    if found is not None:
        assert built in found.why and here in found.why


def test_every_device_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, {"cuda:0": "9.0", "cuda:1": "8.0"})
    assert misfit({"cuda": "9.0"}, ["cuda:0"]) is None
    found = misfit({"cuda": "9.0"}, ["cuda:1"])
    assert found is not None and "cuda:1 has capability 8.0" in found.why
    found = misfit({"cuda": "9.0"}, ["cuda:2"])
    assert found is not None and "no device of that number" in found.why


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, {})
    found = misfit({"cuda": "9.0"}, ["cuda:0"])
    assert found is not None
    assert "runs on a CUDA device of capability 9.0 and torch sees none here" in found.why
    assert "its driver" in found.do
    found = misfit({}, ["xpu:0"])
    assert found is not None and "runs on a xpu device and torch sees none" in found.why


def test_a_machine_is_described_by_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, {"xpu:0": "Arc B580"})
    assert hardware.hardware(["cpu", "xpu:0"])["xpu"] == "Arc B580"
    assert "cuda" not in hardware.hardware(["cuda:0"])
    assert hardware.hardware(["cuda:0"], {"cuda": "9.0"})["cuda"] == "9.0"  # not the one that is here


def test_accelerators_are_what_is_no_processor() -> None:
    assert list(map(str, accelerators(["cuda:1", "cpu", "meta", "cuda:0", "cuda:1"]))) == ["cuda:0", "cuda:1"]
