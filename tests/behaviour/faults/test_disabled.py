"""A config without a cache has no graph: nothing is captured, explained or exported as if it had one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fxcache
from tests.toy import toy

NONE = "C0_Q0_NONE"
INPUTS = {"hidden_states": torch.ones(1, 5, 8), "timestep": torch.ones(1)}


@pytest.mark.parametrize("blocks", [4, 12])  # fewer and more than the default config's Fn
def test_no_cache_is_explained(blocks: int) -> None:
    with pytest.raises(fxcache.FxcacheError, match="no cache to"):
        fxcache.explain(toy(blocks), NONE, INPUTS)


@pytest.mark.parametrize("blocks", [4, 12])
def test_no_cache_is_exported(blocks: int, tmp_path: Path) -> None:
    with pytest.raises(fxcache.FxcacheError, match="no cache to"):
        fxcache.export(fxcache.transform(toy(blocks), NONE), tmp_path / "toy.pt2", INPUTS)


def test_nothing_is_prepared() -> None:
    model = toy()
    cached = fxcache.transform(model, NONE)
    cached.prepare(INPUTS)
    assert torch.equal(cached(**INPUTS), model(**INPUTS))
    assert cached.stats().steps == 1
