"""How often a step waits for the device: for the CPU here, of which it is said that to read it waits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import symbolic_trace
from torch.utils._python_dispatch import TorchDispatchMode

import fxcache
from fxcache.ir import host_reads
from fxcache.ir.guards import ValueGuards
from tests.toy import dual, latents, timesteps

STEPS = 6


@pytest.fixture(autouse=True)
def _reads_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_reads, "waits", lambda device: True)


class Reads(TorchDispatchMode):
    """Notes the operators after which Python knows values: `tolist` of a stack of flags is one, as well."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("equal", "_local_scalar_dense", "is_nonzero") or (
            name == "stack" and args[0][0].dtype == torch.bool
        ):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def run(cached: Any, change: int | None = None) -> Iterator[list[str]]:
    """The reads of each step of a run in inference mode, whose tensors tell nobody of writes to them.

    change: a step before which one of the conditioning inputs is written to.
    """
    with torch.inference_mode(), cached.cache_context("a"):
        prompt, extra = latents(2, 1)
        for i, (x, t) in enumerate(zip(latents(STEPS, 0), timesteps(STEPS), strict=True)):
            if i == change:
                extra.mul_(2)
            with Reads() as reads:
                cached(x, t, encoder_hidden_states=prompt, extra=extra)
            yield reads.found


def test_a_step_compares_all_conditioning_at_once() -> None:
    cached = fxcache.transform(dual(), "F1B0_W2M0MC0_T0O1_R1000")  # type: ignore[arg-type]
    *_, last = list(run(cached))
    assert last == ["stack", "is_nonzero"]  # both inputs, and then the decision
    assert cached.stats()["a"].steps == STEPS


def test_a_written_conditioning_is_noticed() -> None:
    cached = fxcache.transform(dual(), "F1B0_W1M0MC0_T0O1_R1000")  # type: ignore[arg-type]
    list(run(cached, change=4))
    assert cached.stats()["a"].steps == STEPS - 4  # from there on it is another run


def test_values_that_a_forward_read_are_compared_at_once() -> None:
    program = symbolic_trace(lambda x, y: (x > 0, x + y, y.sum()))
    x, y = torch.tensor([1.0, -1.0]), torch.tensor([float("nan"), 2.0])
    guards = ValueGuards(program, program(x, y), (0, 1), (), ("a", "b", "c"))
    with Reads() as reads:
        assert guards.hold([x, y])
    assert reads.found == ["stack"]
    assert not guards.hold([x, y + 1])
    assert not guards.hold([torch.ones(3), torch.ones(3)])


def test_flags_of_several_devices_keep_their_places() -> None:
    flags = [torch.tensor(value) for value in (True, False, True)]
    assert host_reads.read(flags) == [True, False, True]
    assert host_reads.read([]) == []
    pairs: list[tuple[Tensor, Tensor]] = [(torch.ones(2), torch.ones(2)), (torch.ones(2), torch.zeros(2))]
    assert host_reads.equal(pairs) == [True, False]
