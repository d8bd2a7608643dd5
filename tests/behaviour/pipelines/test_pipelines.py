"""Real pipelines, run with the cache in place of their denoisers."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

import fxcache
from fxcache import CachedTransformer
from fxcache.errors import ConfigError, NoDenoiserError

from .build import CASES, FLUX, WAN, PipelineCase

NOTHING = "F1B0_W2M0MC0_T0O1_R0"
ALL = "F1B0_W2M0MC0_T0O1_R1000"  # every step after the second replays
FAST = ("FluxPipeline", "PixArtSigmaPipeline")


@pytest.fixture(
    params=[pytest.param(c, id=c.name, marks=[] if c.name in FAST else pytest.mark.full) for c in CASES]
)
def case(request: pytest.FixtureRequest) -> Iterator[PipelineCase]:
    yield request.param


def cached_parts(case: PipelineCase, pipe: DiffusionPipeline) -> list[CachedTransformer]:
    parts = [getattr(pipe, name) for name in case.denoisers]
    assert all(type(p) is CachedTransformer for p in parts)
    return parts


def on_each_step(pipe: DiffusionPipeline, function: Any) -> dict[str, Any]:
    """The argument of `pipe` that calls `function(pipe)` after each step."""
    if "callback_on_step_end" in inspect.signature(pipe.__call__).parameters:
        return {"callback_on_step_end": lambda p, step, time, values: function(p) or {}}
    return {"callback": lambda step, time, latents: function(pipe)}


class Stop(Exception):
    pass


def test_with_nothing_cached_it_is_the_plain_pipeline(case: PipelineCase) -> None:
    pipe = case.load()
    plain = case.run(pipe)
    originals = [getattr(pipe, name) for name in case.denoisers]
    others = {n: c for n, c in pipe.components.items() if n not in case.denoisers}
    assert fxcache.transform(pipe, NOTHING) is pipe
    assert torch.equal(case.run(pipe), plain)
    assert {n: pipe.components[n] for n in others} == others
    for part in cached_parts(case, pipe):
        stats = part.stats()
        assert set(stats.contexts) == case.contexts
        assert stats.steps > 0 and stats.cached == 0
    assert fxcache.restore(pipe) is pipe
    assert all(getattr(pipe, name) is o for name, o in zip(case.denoisers, originals, strict=True))


def test_the_cache_in_a_pipeline(case: PipelineCase) -> None:
    """Contexts keep apart, calls start clean, also after interruptions, and leave no state behind."""
    pipe = case.load()
    plain = case.run(pipe)
    fxcache.transform(pipe, ALL)
    parts = cached_parts(case, pipe)
    held: list[int] = []
    steps: list[int] = []

    def look(_: Any) -> None:
        held.append(sum(p.stats().state_bytes for p in parts))
        steps.append(len(steps))

    first = case.run(pipe, **on_each_step(pipe, look))
    assert first.isfinite().all() and not torch.equal(first, plain)
    for part in parts:
        stats = part.stats()
        assert set(stats.contexts) == case.contexts
        assert all(c.hits == (False, False, *[True] * (c.steps - 2)) for c in stats.contexts.values())
    assert sum(c.steps for p in parts for c in p.stats().contexts.values()) == len(steps) * len(case.contexts)
    assert sum(p.stats().state_bytes for p in parts) < max(held)
    assert torch.equal(case.run(pipe), first)

    def stop(_: Any) -> None:
        if len(steps) == 3:
            raise Stop
        steps.append(0)

    for seed in (1, 0):  # another request is cut off, then this one
        steps.clear()
        with pytest.raises(Stop):
            case.run(pipe, seed=seed, **on_each_step(pipe, stop))
        assert torch.equal(case.run(pipe), first)
    if hasattr(pipe, "interrupt"):
        case.run(pipe, seed=1, **on_each_step(pipe, lambda p: setattr(p, "_interrupt", True)))
        assert torch.equal(case.run(pipe), first)


def test_two_images_for_one_prompt() -> None:
    pipe = FLUX.load()
    plain = FLUX.run(pipe, num_images_per_prompt=2)
    fxcache.transform(pipe, NOTHING)
    assert torch.equal(FLUX.run(pipe, num_images_per_prompt=2), plain)
    assert plain.shape[0] == 2


def test_a_saved_pipeline_is_the_one_that_was_cached(tmp_path: Path) -> None:
    pipe = FLUX.load()
    plain = FLUX.run(pipe)
    fxcache.transform(pipe, ALL)
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["transformer"] == ["diffusers", "FluxTransformer2DModel"]
    absent = {n: None for n, c in pipe.components.items() if c is None}
    again = DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True, **absent)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(FLUX.run(again), plain)


def test_a_config_for_each_denoiser() -> None:
    pipe = WAN.load()
    fxcache.transform(pipe, {"transformer": NOTHING, "transformer_2": ALL})
    assert [str(p.cache_config) for p in cached_parts(WAN, pipe)] == [
        str(fxcache.CacheConfig.from_string(s)) for s in (NOTHING, ALL)
    ]
    fxcache.restore(pipe)
    fxcache.transform(pipe, {"transformer_2": {"fn_compute_blocks": 2}})
    assert type(pipe.transformer) is not CachedTransformer
    assert pipe.transformer_2.cache_config.fn_compute_blocks == 2


def test_transforming_again_takes_the_new_config() -> None:
    pipe = fxcache.transform(fxcache.transform(FLUX.load(), NOTHING), ALL)
    assert str(pipe.transformer.cache_config) == str(fxcache.CacheConfig.from_string(ALL))
    assert type(pipe.transformer.original) is not CachedTransformer


def test_mistakes_are_refused() -> None:
    pipe = FLUX.load()
    with pytest.raises(ConfigError, match="denoisers of the pipeline: transformer"):
        fxcache.transform(pipe, {"vae": NOTHING})
    with pytest.raises(ConfigError, match="example_inputs"):
        fxcache.transform(pipe, NOTHING, example_inputs={})  # type: ignore[call-overload]
    pipe.transformer = None
    with pytest.raises(NoDenoiserError, match="timestep"):
        fxcache.transform(pipe, NOTHING)


def test_restoring_a_plain_pipeline_does_nothing() -> None:
    pipe = FLUX.load()
    model = pipe.transformer
    assert fxcache.restore(pipe).transformer is model
