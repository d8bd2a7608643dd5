"""Kinds of devices, and what is asked of them; what needs one is skipped without."""

from __future__ import annotations

import pytest
import torch

from fxcache import devices
from fxcache.environment.ambient_settings import ambient_key, put_back, snapshot


@pytest.mark.parametrize("kind", devices.autocast_kinds())
def test_autocast_of_every_kind_is_part_of_a_calls_key(kind: str) -> None:
    before, plain = snapshot(), ambient_key()
    torch.set_autocast_enabled(kind, True)
    try:
        assert ambient_key() != plain
    finally:
        put_back(before)
    assert ambient_key() == plain


def test_what_no_build_has_is_not_usable() -> None:
    assert devices.is_usable(torch.device("cpu"))
    assert not devices.is_usable(torch.device("lazy:0"))
    assert not devices.is_usable(torch.device("cuda:99"))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without an accelerator")
def test_without_an_accelerator_there_are_no_generators() -> None:
    assert devices.accelerator() is None
    assert devices.random_states() == []
    devices.set_random_states([])
    devices.synchronize(torch.device("cpu"))


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs an accelerator")
def test_generators_go_back_to_where_they_were() -> None:
    kind = devices.accelerator()
    torch.rand(1, device=kind)  # starts it
    states = devices.random_states()
    first = torch.rand(3, device=kind)
    devices.set_random_states(states)
    assert torch.equal(first, torch.rand(3, device=kind))
    assert devices.name_of(torch.device(str(kind))) is not None or kind == "mps"
