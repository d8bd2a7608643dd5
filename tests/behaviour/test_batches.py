"""How the rows of a batch decide together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fxcache
from fxcache import CacheConfig
from fxcache.errors import ConfigError, GraphSettingError
from tests.sweep import sweep
from tests.toy import toy

CONFIG = CacheConfig(fn_compute_blocks=1, max_warmup_steps=1, batch="every")
TIMES = (1.0, 0.9)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def steps(moves: tuple[float, ...]) -> list[Tensor]:
    """Two samples [rows, 5, 8], of which each row moves by so much."""
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(len(moves), 5, 8, generator=generator)
    other = torch.randn(len(moves), 5, 8, generator=generator)
    return [start, start + other * torch.tensor(moves).reshape(-1, 1, 1)]


def diff(config: CacheConfig, samples: list[Tensor]) -> float:
    """What the second step is decided by."""
    cached = fxcache.transform(toy(), config)
    for x, time in zip(samples, TIMES, strict=True):
        cached(x, torch.full((x.shape[0],), time))
    return cached.stats()["default"].residual_diffs[1]


@pytest.mark.parametrize(("examples", "rows"), sweep(((2, 3), (15, 4)), ((2, 3),)))
def test_a_batch_is_decided_by_the_row_that_moved_most(examples: int, rows: int) -> None:
    moves = st.lists(st.floats(0.0, 0.3), min_size=1, max_size=rows)
    settings(max_examples=examples, deadline=None)(given(moves)(_is_decided_by_the_most))()


def _is_decided_by_the_most(moves: list[float]) -> None:
    together = steps(tuple(moves))
    alone = [diff(CONFIG, [x[i : i + 1] for x in together]) for i in range(len(moves))]
    assert diff(CONFIG, together) == pytest.approx(max(alone), rel=1e-5)


def test_a_neighbor_that_stays_hides_nothing() -> None:
    samples = steps((0.0, 0.3))
    every, mean = diff(CONFIG, samples), diff(CONFIG.replace(batch="mean"), samples)
    assert mean < 0.8 * every
    config = CONFIG.replace(residual_diff_threshold=(mean + every) / 2)
    hits = []
    for chosen in (config, config.replace(batch="mean")):
        cached = fxcache.transform(toy(), chosen)
        for x, time in zip(samples, TIMES, strict=True):
            cached(x, torch.full((2,), time))
        hits.append(cached.stats()["default"].hits[1])
    assert hits == [False, True]


def test_a_row_that_is_not_finite_computes() -> None:
    first, second = steps((0.1, 0.1))
    second[1] = float("nan")
    cached = fxcache.transform(toy(), CONFIG.replace(residual_diff_threshold=1e6))
    for x, time in zip((first, second), TIMES, strict=True):
        cached(x, torch.full((2,), time))
    assert cached.stats()["default"].hits[-1] is False


def test_it_is_written_and_part_of_the_graph() -> None:
    assert str(CONFIG) == "F1B0_W1M0MC0_T0O1_R0.08_BE"
    assert (
        CacheConfig.from_string(str(CONFIG)) == CONFIG and CacheConfig.from_dict(CONFIG.to_dict()) == CONFIG
    )
    with pytest.raises(GraphSettingError, match="batch = 'mean'"):
        fxcache.transform(toy(), CONFIG).configure(batch="mean")
    with pytest.raises(ConfigError, match='"mean" or "every"'):
        CacheConfig(batch="each")  # type: ignore[arg-type]
