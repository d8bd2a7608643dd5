"""Two ranks that hold parts of one sample, as diffusers splits it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from torch import Tensor, nn

import fxcache
from fxcache.errors import CaptureError, ExportError, FxcacheError
from fxcache.torch_private import FakeTensor
from tests.behaviour.processes.models import (
    Call,
    cached,
    diffs,
    farthest,
    flux,
    flux_call,
    hits,
    qwen,
    qwen_call,
    run,
    wan,
    wan_call,
)
from tests.behaviour.processes.worker import by_name, gathered, main

NEVER, ALWAYS = 1e-9, 9.0
Start = tuple[Tensor, Call]


def split(model: nn.Module, **options: Any) -> Any:
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2, **options))  # type: ignore[operator]
    return model


def between(local: list[dict[int, float]], whole: dict[int, float]) -> float:
    """A threshold between what two ranks see by themselves, where one process sees something else again."""
    gaps = {step: max(abs(one[step] - whole[step]) for one in local) for step in whole}
    step = max(gaps, key=lambda s: gaps[s] / whole[s])
    far = max((one[step] for one in local), key=lambda diff: abs(diff - whole[step]))
    return (far + whole[step]) / 2


def decision(build: Callable[[], nn.Module], start: Start, **options: Any) -> dict[str, Any]:
    """One process beside two, at a threshold at which the two, each by itself, would disagree."""
    alone = cached(build(), NEVER)
    plain = run(alone, start)
    whole = diffs(alone)
    together = cached(split(build()), NEVER, **options)
    never = run(together, start)
    seen = diffs(together)
    selfish = cached(split(build()), NEVER, process_group=None)
    run(selfish, start)
    threshold = between(gathered(diffs(selfish)), whole)
    for model in (alone, together):
        model.configure(residual_diff_threshold=threshold)
    expected, found = run(alone, start), run(together, start)
    return {
        "uncached off": farthest(never, plain),
        "diffs": list(seen.values()),
        "diffs of one": list(whole.values()),
        "diffs alone": list(diffs(selfish).values()),
        "hits": hits(together),
        "hits of one": hits(alone),
        "off": farthest(found, expected),
        "said": str(together.stats()),
    }


def flux_decides_as_one() -> Any:
    return decision(flux, flux_call())


def wan_decides_as_one() -> Any:
    return decision(wan, wan_call())


def qwen_decides_as_one() -> Any:
    return decision(qwen, qwen_call())


def times_of_tokens() -> Any:
    """Wan 2.2 gives every token a time; a rank whose tokens are clean sees time 0 throughout."""
    alone = cached(wan(), ALWAYS)
    expected = run(alone, wan_call(per_token=True))
    together = cached(split(wan()), ALWAYS)
    found = run(together, wan_call(per_token=True))
    return {"hits": hits(together), "hits of one": hits(alone), "off": farthest(found, expected)}


def before_and_after() -> Any:
    """`transform` first, then `enable_parallelism`; a call between."""
    plain = run(split(flux()), flux_call())
    model = flux()
    late = cached(model, NEVER)
    run(late, flux_call(), steps=1)
    split(model)
    early = cached(split(flux()), NEVER)
    found = [farthest(run(one, flux_call()), plain) for one in (late, early)]
    for one in (late, early):
        one.configure(residual_diff_threshold=ALWAYS)
    outputs = [run(one, flux_call()) for one in (late, early)]
    return {"off": found, "hits": [hits(late), hits(early)], "cached off": farthest(*outputs)}


def uneven_parts() -> Any:
    """`ulysses_anything` gathers with collectives that work in place."""
    model = split(flux(), ulysses_anything=True)
    with torch.no_grad():
        sample, call = flux_call()
        before = model(**call(sample, 1.0), return_dict=False)[0]
    try:
        run(cached(model, NEVER), flux_call(), steps=1)
    except CaptureError as error:
        with torch.no_grad():
            after = model(**call(sample, 1.0), return_dict=False)[0]
        return {"raised": str(error), "off": farthest([after], [before])}
    return {"raised": None}


def export_is_refused(folder: str = "unused.pt2") -> Any:
    sample, call = flux_call()
    together = cached(split(flux()), ALWAYS)
    try:
        fxcache.export(together, folder, {**call(sample, 1.0), "return_dict": False})
    except ExportError as error:
        return {"raised": str(error)}
    return {"raised": None}


def explained() -> Any:
    sample, call = flux_call()
    model = split(flux())
    found = fxcache.explain(model, "F1B0_W2M0MC2_T0O1_R0.1", {**call(sample, 1.0), "return_dict": False})
    together = cached(split(flux()), NEVER, example_inputs={**call(sample, 1.0), "return_dict": False})
    graph = str(together.graph)
    run(together, flux_call(), steps=2)
    return {"said": str(found), "graph": graph, "graphs": len(together.specializations())}


def one_rank_fails() -> Any:
    """A rank whose model cannot be captured: an error on both, at once; or both run uncached."""
    plain = run(split(flux()), flux_call(), steps=2)
    results: dict[str, Any] = {}
    for option in ("raise", "passthrough"):
        model = split(flux())
        if dist.get_rank() == 1:
            model.transformer_blocks[1].register_forward_pre_hook(_refuse_trace, with_kwargs=True)
        together = cached(model, ALWAYS, on_unsupported=option)
        gathered(None)
        start = time.monotonic()
        try:
            results[option] = farthest(run(together, flux_call(), steps=2), plain)
        except FxcacheError as error:
            results[option] = [type(error).__name__, str(error)]
        results[f"{option} took"] = time.monotonic() - start
    return results


def _refuse_trace(module: nn.Module, args: Any, kwargs: Any) -> None:
    if _is_fake(kwargs["hidden_states"]):
        raise RuntimeError("this rank cannot be traced")


def _is_fake(value: object) -> bool:
    return isinstance(value, FakeTensor)


def policies() -> Any:
    """Every policy, and what else decides, as in one process."""
    whole = {"fn_compute_blocks": 0, "level": "output", "residual_diff_threshold": 0.6}
    cases: dict[str, Any] = {
        "forecast": {"policy": fxcache.ForecastError(), "forecaster": fxcache.TaylorSeer(order=1)},
        "budget": {"policy": fxcache.Budget(), "residual_diff_threshold": 0.6},
        "teacache": {**whole, "policy": fxcache.TeaCache()},
        "easycache": {**whole, "policy": fxcache.EasyCache()},
        "magcache": {**whole, "policy": fxcache.MagCache(ratios=(1.0, 0.9, 0.8, 0.9))},
        "interval": {"fn_compute_blocks": 0, "policy": fxcache.FixedInterval(interval=3)},
        "rows": {"batch": "every"},
    }
    found: dict[str, Any] = {}
    for name, changes in cases.items():
        alone = cached(flux(), 0.31, changes=changes)
        together = cached(split(flux()), 0.31, changes=changes)
        expected = run(alone, flux_call())
        off = farthest(run(together, flux_call()), expected)
        found[name] = {"hits": hits(together), "hits of one": hits(alone), "off": off}
        found[name]["diffs"] = [list(diffs(one).values()) for one in (together, alone)]
    plan = fxcache.plan(steps=8, speedup=2)
    alone, together = fxcache.transform(flux(), plan), fxcache.transform(split(flux()), plan)
    expected = run(alone, flux_call())
    off = farthest(run(together, flux_call()), expected)
    found["plan"] = {"hits": hits(together), "hits of one": hits(alone), "off": off, "diffs": [[], []]}
    try:
        run(cached(split(wan()), 0.1, changes={**whole, "policy": fxcache.SeaCache()}), wan_call(), steps=1)
    except FxcacheError as error:
        found["seacache"] = str(error)
    return found


def compiled(mode: str) -> Any:
    """All compile modes, with collectives around and inside of the conditional."""
    together = cached(split(flux()), ALWAYS)
    expected = run(together, flux_call(), steps=5)
    fast = fxcache.compile(together, mode=mode)
    found = run(fast, flux_call(), steps=5)
    return {"hits": hits(fast), "expected": hits(together), "off": farthest(found, expected)}


def fused() -> Any:
    return compiled("fused")


def single() -> Any:
    return compiled("single")


def staged() -> Any:
    return compiled("staged")


SCENARIOS = by_name(
    flux_decides_as_one,
    wan_decides_as_one,
    qwen_decides_as_one,
    times_of_tokens,
    before_and_after,
    uneven_parts,
    export_is_refused,
    explained,
    one_rank_fails,
    policies,
    fused,
    single,
    staged,
)

if __name__ == "__main__":
    main(SCENARIOS, sys.argv[1], sys.argv[2:])
