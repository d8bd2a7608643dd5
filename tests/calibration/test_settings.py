"""The numbers of a setting: what policies are fitted to, and thresholds."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache import CacheConfig, DBCache, EasyCache, MagCache, Policy, TaylorSeer, TeaCache
from fxcache.calibration.watch import Watch
from fxcache.errors import CalibrationError, ConfigError
from fxcache.policies import Seen
from tests.behaviour.pipelines.build import WAN
from tests.behaviour.zoo.draw import Draw
from tests.toy import latents, timesteps, toy

STEPS = 12
QUIET: dict[str, Any] = {"on_progress": lambda done, total, text: None}


def run(model: nn.Module, i: int) -> Tensor:
    """Not a sampler: the inputs are known beforehand, so that the numbers are."""
    with torch.no_grad():
        steps = zip(latents(STEPS, i), timesteps(STEPS), strict=True)
        return torch.stack([model(sample, time) for sample, time in steps])


def free(policy: Policy, **fields: Any) -> CacheConfig:
    return CacheConfig(fn_compute_blocks=0, level="output", max_warmup_steps=2, policy=policy, **fields)


def speedup_of(config: CacheConfig, runs: int) -> float:
    cached, done, saved = fxcache.transform(toy(), config), 0, 0
    for i in range(runs):
        run(cached, i)
        (stats,) = cached.stats().contexts.values()
        assert stats.flops_done is not None and stats.flops_saved is not None
        done, saved = done + stats.flops_done, saved + stats.flops_saved
        cached.reset()
    return (done + saved) / done


@pytest.mark.parametrize("policy", [DBCache(), EasyCache(), TeaCache()])
def test_the_threshold_is_that_of_the_speedup(policy: Policy) -> None:
    if policy.needs_front:
        config = CacheConfig(
            fn_compute_blocks=1, max_warmup_steps=2, policy=policy, forecaster=TaylorSeer(order=1)
        )
    else:
        config = free(policy)
    found = fxcache.calibrate(toy(), run=run, runs=3, speedup=1.5, config=config, **QUIET)
    assert isinstance(found, CacheConfig)
    assert speedup_of(found, 3) >= 0.99 * 1.5
    lower = found.replace(residual_diff_threshold=0.9 * found.residual_diff_threshold)
    assert speedup_of(lower, 3) <= speedup_of(found, 3)
    fields = (f for f in vars(found) if f not in ("residual_diff_threshold", "policy"))
    assert all(getattr(found, f) == getattr(config, f) for f in fields)


def test_magcaches_ratios_are_those_of_plain_runs() -> None:
    found = fxcache.calibrate(toy(), run=run, runs=2, speedup=1.5, config=free(MagCache([1.0])), **QUIET)
    outputs = [run(toy(), i) for i in range(2)]
    wanted = [
        sum((o[t].norm(dim=-1) / o[t - 1].norm(dim=-1)).mean().item() for o in outputs) / 2
        for t in range(1, STEPS - 1)
    ]
    assert found.policy.ratios == pytest.approx([1.0, *wanted, wanted[-1]], rel=1e-4)


def test_teacaches_polynomial_is_numpys_fit() -> None:
    found = fxcache.calibrate(toy(), run=run, runs=2, speedup=1.5, config=free(TeaCache()), **QUIET)
    model, pairs = toy(), []
    for i in range(2):
        norms, outputs = [model.embed(x) for x in latents(STEPS, i)], run(model, i)
        for t in range(1, STEPS - 1):
            moved = (norms[t] - norms[t - 1]).abs().mean() / norms[t - 1].abs().mean()
            changed = (outputs[t] - outputs[t - 1]).abs().mean() / outputs[t - 1].abs().mean()
            pairs.append((moved.item(), changed.item()))
    x, y = numpy.array(pairs).T
    ours, best = (numpy.poly1d(c)(x) for c in (found.policy.coefficients, numpy.polyfit(x, y, 4)))
    assert ((ours - y) ** 2).sum() == pytest.approx(((best - y) ** 2).sum(), rel=1e-3)


def test_limits_hide_nothing_from_the_fit() -> None:
    limited = free(TeaCache(), last_compute_steps=2, steps=STEPS, start_percent=0.2, warmup_interval=1)
    found, plain = (
        fxcache.calibrate(toy(), run=run, runs=2, speedup=1.2, config=config, **QUIET)
        for config in (limited, free(TeaCache()))
    )
    assert found.policy == plain.policy and found.last_compute_steps == 2


def test_nothing_is_fitted_to_two_steps() -> None:
    assert TeaCache((2.0, 1.0)).fitted(Seen(signal=[(0.1,)], change=[()])) == TeaCache((2.0, 1.0))


def test_a_pipeline_with_two_denoisers_gets_two_settings() -> None:
    pipe, inputs = WAN.load(), WAN.inputs(Draw(7))
    shared = {**inputs, "num_inference_steps": 8, "output_type": "latent"}
    calls = [{**shared, "generator": torch.Generator().manual_seed(i)} for i in range(2)]
    before = dict(pipe.components)
    config = free(MagCache([1.0]))
    found = fxcache.calibrate(pipe, calls, speedup=1.1, config=config, **QUIET)
    assert set(found) == {"transformer", "transformer_2"}
    assert all(len(c.policy.ratios) < 8 for c in found.values())
    assert dict(pipe.components) == before
    cached = fxcache.transform(pipe, found)
    cached(**calls[0])
    assert cached.transformer.stats().cached + cached.transformer_2.stats().cached > 0


def test_runs_that_go_astray_are_no_way_to_save() -> None:
    """What the cache takes for a new run looks like a run of few steps."""

    def turning(model: nn.Module, i: int) -> Tensor:
        times = [*timesteps(STEPS)[:8], *timesteps(STEPS)[:4]]
        with torch.no_grad():
            return torch.stack([model(x, t) for x, t in zip(latents(STEPS, i), times, strict=True)])

    with pytest.raises(CalibrationError, match="go astray"):
        fxcache.calibrate(toy(), run=turning, runs=1, speedup=1.5, config=free(EasyCache()), **QUIET)


def test_what_cannot_be_found_is_refused() -> None:
    limited = CacheConfig(fn_compute_blocks=1, max_warmup_steps=2, max_cached_steps=1)
    with pytest.raises(CalibrationError, match="is all that its limits allow"):
        fxcache.calibrate(toy(), run=run, runs=1, speedup=3.0, config=limited, **QUIET)
    with pytest.raises(CalibrationError, match="found for one speedup"):
        fxcache.calibrate(toy(), run=run, runs=1, psnr=40.0, config=limited, **QUIET)
    with pytest.raises(CalibrationError, match="found for one speedup"):
        fxcache.calibrate(toy(), run=run, runs=1, speedup=(2.0, 3.0), config=limited, **QUIET)
    for config in ("C0_Q0_NONE", "P28K11", "F0B0_W3M0MC0_T0O1_R0_S1001001s"):
        with pytest.raises(CalibrationError, match="has no threshold to find"):
            fxcache.calibrate(toy(), run=run, runs=1, speedup=2.0, config=config, **QUIET)
    with pytest.raises(ConfigError, match="its what must be"):
        Watch("else")  # type: ignore[arg-type]
