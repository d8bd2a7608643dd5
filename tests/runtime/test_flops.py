"""FLOPs are counted from the graph, and agree with the document that this project implements."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fxcache import CacheConfig, embedded, explain, transform
from fxcache.benchmark.document import Derivation, derive, most_hits, read_document, table
from fxcache.runtime.flops import CPU_ATTENTION, StepFlops, count_step
from tests.sweep import sweep
from tests.toy import latents, timesteps, toy


@pytest.fixture(scope="module")
def derivation() -> Derivation:
    return derive()


@pytest.mark.full
def test_flux_dev_on_the_meta_device_costs_what_the_document_says(derivation: Derivation) -> None:
    assert derivation.reported == 3726.87
    assert derivation.counted == pytest.approx(3726.87, rel=0.005)
    # The products by hand: a double block is 12 d² parameters on 4608 tokens, a single one 12 d² too.
    tokens, width = 4608, 3072
    products = 2 * tokens * 12 * width**2 * 57 + 4 * tokens**2 * width * 57
    assert derivation.counted / derivation.steps * 1e12 == pytest.approx(products, rel=0.02)


@pytest.mark.full
def test_every_row_of_the_document_implies_a_possible_number_of_cached_steps(
    derivation: Derivation,
) -> None:
    assert len(derivation.rows) == len(read_document()["rows"]) - 1 == 13
    for row in derivation.rows:
        assert 0 <= row.implied <= row.limit, row
    implied = {row.name: row.implied for row in derivation.rows}
    assert implied["F8B0_W8M0MC0_T0O1_R0.08"] == pytest.approx(24.4, abs=0.1)
    assert implied["F8B0_W8M0MC2_T0O1_R0.12"] < implied["F8B0_W8M0MC4_T0O1_R0.12"]
    assert "| F8B0_W8M0MC0_T0O1_R0.08 | 2162.19 | 10.45 | 24.5 | 42 | yes |" in table(derivation)


@pytest.mark.full
def test_a_cached_step_keeps_the_front_blocks_share(derivation: Derivation) -> None:
    by_front = {CacheConfig.from_string(r.name).fn_compute_blocks: r.cost for r in derivation.rows}
    each = (by_front[8].cached - by_front[1].cached) / 7
    assert by_front[4].cached == pytest.approx(by_front[1].cached + 3 * each, rel=1e-6)
    assert by_front[1].computed == by_front[4].computed == by_front[8].computed


@pytest.mark.parametrize(
    ("setting", "steps", "most"),
    [
        ("F8B0_W8M0MC0_T0O1_R0.08", 50, 42),
        ("F8B0_W8M0MC2_T0O1_R0.12", 50, 28),
        ("F1B0_W0M0MC0_T0O1_R0.08", 10, 9),
        ("F1B0_W4M5MC0_T0O1_R0.08", 50, 5),
        ("F1B0_W4M0MC3_T0O1_R0.08", 4, 0),
    ],
)
def test_most_hits(setting: str, steps: int, most: int) -> None:
    assert most_hits(CacheConfig.from_string(setting), steps) == most


@pytest.mark.parametrize(
    "setting", sweep(("F1B0_W2M0MC1_T0O1_R9", "F2B1_W1M0MC0_T1O1_R9"), ("F2B1_W1M0MC0_T1O1_R9",))
)
def test_counted_flops_are_those_that_a_run_does(setting: str) -> None:
    """The count from the graph equals torch's counter around a real run with hits and misses."""
    cached = transform(embedded.load_transformer(), setting)
    pipe = embedded.load_pipeline(cached)
    counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
    embedded.sample(pipe, [1], num_inference_steps=1)  # capture is not part of it
    with counter:
        embedded.sample(pipe, [1], num_inference_steps=6)
    stats = cached.stats()["cond"]
    assert len(stats.cached_steps) >= 2
    assert stats.flops_done == counter.get_total_flops()


def test_saved_flops_are_the_rest_of_the_plain_run() -> None:
    model = embedded.load_transformer()
    pipe = embedded.load_pipeline(model)
    counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
    with counter:
        embedded.sample(pipe, [1], num_inference_steps=5)
    pipe.transformer = cached = transform(model, "F1B0_W2M0MC0_T0O1_R9")
    embedded.sample(pipe, [1], num_inference_steps=5)
    stats = cached.stats()["cond"]
    assert stats.flops_done is not None and stats.flops_saved is not None and stats.flops_saved > 0
    assert stats.flops_done + stats.flops_saved == counter.get_total_flops()


def test_they_are_counted_when_first_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []

    def count(*args: Any) -> StepFlops | None:
        counted.append(args)
        return count_step(*args)

    monkeypatch.setattr("fxcache.runtime.specialization.count_step", count)
    cached = transform(toy(), "F1B0_W2M0MC0_T0O1_R9")
    with torch.no_grad():
        for x, t in zip(latents(4, 0), timesteps(4), strict=True):
            cached(x, t)
    stats = cached.stats()["default"]
    assert stats.cached_steps == (2, 3) and not counted
    cached.reset()
    with torch.no_grad():
        cached(latents(1, 1)[0], timesteps(1)[0])  # another run changes nothing of what is asked for
    block, outside = 2 * 5 * 8 * 8, 2 * (2 * 5 * 8 * 8)
    assert (stats.flops_done, stats.flops_saved) == (4 * outside + (2 * 4 + 2 * 1) * block, 2 * 3 * block)
    assert len(counted) == 1
    later = cached.stats()["default"]
    for other in (copy.copy(later), copy.deepcopy(later), pickle.loads(pickle.dumps(later))):
        assert other == later and other.flops_done == outside + 4 * block
    assert len(counted) == 1
    with pytest.raises(AttributeError, match="flops_left"):
        stats.flops_left  # type: ignore[attr-defined]  # noqa: B018


def test_explain_counts_without_computing() -> None:
    prompt, pooled = embedded.class_embeddings([0])
    model = embedded.load_transformer().to("meta")
    with torch.device("meta"):
        inputs = {
            "hidden_states": torch.empty(1, 49, 16),
            "encoder_hidden_states": prompt.to("meta"),
            "pooled_projections": pooled.to("meta"),
            "timestep": torch.empty(1),
            "img_ids": torch.empty(49, 3),
            "txt_ids": torch.empty(2, 3),
        }
    found = explain(model, "F1B0_W4M0MC3_T0O1_R0.12", inputs)
    assert found.flops_computed is not None and found.flops_cached is not None
    assert 0 < found.flops_cached < found.flops_computed / 4
