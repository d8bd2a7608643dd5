"""Three ranks that hold 7, 4 and 5 tokens of one sample, with a group that is given."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import fxcache
from fxcache.errors import ExportError, FxcacheError, PeersError, ProcessesWarning
from fxcache.torch_private import FakeTensor
from tests.behaviour.processes.worker import by_name, gathered, main

SIZES = (7, 4, 5)
WIDTH, STEPS = 8, 10
NEVER, ALWAYS = "F1B0_W2M0MC2_T0O1_R1e-9", "F1B0_W2M0MC2_T0O1_R9"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        return x + torch.tanh(self.linear(x)) * temb.reshape(-1, 1, 1) * (1 + x.mean(-1, keepdim=True))


class Communicating(Block):
    """Asks the other ranks, as an engine's own attention does."""

    failing = False

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        name = dist.group.WORLD.group_name  # type: ignore[union-attr]
        total = torch.ops._c10d_functional.all_reduce(temb, "sum", name)
        temb = torch.ops._c10d_functional.wait_tensor(total) / dist.get_world_size()
        if self.failing:
            raise RuntimeError("this rank fails")
        return super().forward(x, temb)


class Model(nn.Module):
    unreadable = False

    def __init__(self, block: Callable[[], nn.Module] = Communicating) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(block() for _ in range(4))

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        if self.unreadable:
            assert hidden_states.numpy().size  # no symbol can stand for that
        for block in self.blocks:
            hidden_states = block(hidden_states, timestep)
        return hidden_states


def samples(batch: int = 2, seed: int = 0) -> list[Tensor]:
    """Those of a run: rows, and tokens, that change each in its own way."""
    draw = torch.Generator().manual_seed(seed)
    start, drift = (torch.randn(batch, sum(SIZES), WIDTH, generator=draw) for _ in range(2))
    drift = drift.abs() * torch.linspace(0.2, 3, sum(SIZES)).reshape(1, -1, 1)
    return [start.cumsum(1) + 0.02 * step * drift for step in range(STEPS)]


def own(sample: Tensor) -> Tensor:
    return sample.split(SIZES, 1)[dist.get_rank()].contiguous()


def run(model: Any, given: list[Tensor], steps: int = STEPS) -> list[Tensor]:
    with torch.no_grad():
        return [model(x, torch.full((2,), 1 - i / STEPS)) for i, x in enumerate(given[:steps])]


def parts(config: Any = NEVER, **options: Any) -> Any:
    return fxcache.transform(Model().eval(), config, process_group=dist.group.WORLD, **options)


def hits(model: Any, context: str = "default") -> str:
    return "".join("H" if hit else "." for hit in model.stats()[context].hits)


def diffs(model: Any) -> dict[int, float]:
    return dict(model.stats()["default"].residual_diffs)


def away(found: list[Tensor], expected: list[Tensor]) -> float:
    return max(float((a - own(b)).abs().max()) for a, b in zip(found, expected, strict=True))


def as_one_process() -> Any:
    """A threshold between what the ranks see by themselves; the group in its place."""
    alone, selfish = (
        fxcache.transform(Model(Block).eval(), NEVER),
        fxcache.transform(Model(Block).eval(), NEVER),
    )
    given = samples()
    run(alone, given)
    run(selfish, [own(x) for x in given])
    whole, local = diffs(alone), gathered(diffs(selfish))
    step = max(whole, key=lambda s: abs(local[1][s] - whole[s]))
    threshold = (whole[step] + local[1][step]) / 2
    together = parts()
    never = away(run(together, [own(x) for x in given]), run(Model(Block).eval(), given))
    seen = list(diffs(together).values())
    for model in (alone, selfish, together):
        model.configure(residual_diff_threshold=threshold)
    expected = run(alone, given)
    off = away(run(together, [own(x) for x in given]), expected)
    run(selfish, [own(x) for x in given])
    return {
        "uncached off": never,
        "off": off,
        "hits": hits(together),
        "hits of one": hits(alone),
        "hits alone": hits(selfish),
        "diffs": seen,
        "diffs of one": list(whole.values()),
        "said": str(together.stats()),
        "graph": str(together.graph),
    }


WHOLE = {"fn_compute_blocks": 0, "level": "output"}
SOON: dict[str, Any] = {
    "forecast": {"policy": fxcache.ForecastError(), "forecaster": fxcache.TaylorSeer(order=1)},
    "easycache": {**WHOLE, "policy": fxcache.EasyCache()},
    "rows": {"batch": "every"},
}
LATER: dict[str, Any] = {
    "budget": {"policy": fxcache.Budget()},
    "magcache": {**WHOLE, "policy": fxcache.MagCache(ratios=(1.0, 0.9, 0.8, 0.9))},
    "interval": {"fn_compute_blocks": 0, "policy": fxcache.FixedInterval(interval=3)},
    "window": {"fn_compute_blocks": 0, "policy": fxcache.GrowingWindow(window=2, growth=1)},
    "mask": {"fn_compute_blocks": 0, "steps_mask": (1, 1, 0, 1, 0) * 2, "steps_mask_policy": "static"},
    "plan": fxcache.plan(steps=STEPS, speedup=2),
}


def decided(case: Any) -> Any:
    """A policy, or what else decides, as in one process, at a threshold that some steps are below."""
    base = {"fn_compute_blocks": 1, "max_warmup_steps": 2, "max_continuous_cached_steps": 3}
    config = {**base, "residual_diff_threshold": 1e-9, **case} if isinstance(case, dict) else case
    given = samples()
    alone, together = fxcache.transform(Model(Block).eval(), config), parts(config)
    run(alone, given)
    middle = alone.stats()["default"].diff_quantiles.get(50)
    if middle is not None:
        for model in (alone, together):
            model.configure(
                residual_diff_threshold=1.0001 * middle or 0.05
            )  # some count, and measure nothing
    expected = run(alone, given)
    off = away(run(together, [own(x) for x in given]), expected)
    seen = [list(diffs(model).values()) for model in (together, alone)]
    return {"hits": hits(together), "hits of one": hits(alone), "off": off, "diffs": seen}


def policies() -> Any:
    found = {name: decided(case) for name, case in SOON.items()}
    try:
        run(parts({"fn_compute_blocks": 0, "policy": fxcache.SeaCache(grid=(4, 4))}), samples(), steps=1)
    except FxcacheError as error:
        found["seacache"] = str(error)
    return found


def more_policies() -> Any:
    return {name: decided(case) for name, case in LATER.items()}


def one_context_follows() -> Any:
    """A follower is told of its leader by each rank: what they were told must be the same."""
    config = fxcache.CacheConfig.from_string(ALWAYS).replace(follow={"uncond": "cond"})
    alone, together = fxcache.transform(Model(Block).eval(), config), parts(config)
    for model, given in ((alone, samples()), (together, [own(x) for x in samples()])):
        with torch.no_grad():
            for i, x in enumerate(given):
                for name in ("cond", "uncond"):
                    with model.cache_context(name):
                        model(x, torch.full((2,), 1 - i / STEPS))
    return {name: [hits(model, name) for model in (together, alone)] for name in ("cond", "uncond")}


def one_rank_fails() -> Any:
    """A rank whose model cannot be captured: an error on all, at once; or all run uncached."""
    given = [own(x) for x in samples()]
    plain = run(Model().eval(), given, steps=2)
    results: dict[str, Any] = {}
    for option in ("raise", "passthrough"):
        together = parts(ALWAYS, on_unsupported=option)
        if dist.get_rank() == 1:
            together.original.blocks[1].register_forward_pre_hook(_refuse_trace)
        gathered(None)
        start = time.monotonic()
        for attempt in ("first", "second"):
            try:
                found = run(together, given, steps=2)
                pairs = zip(found, plain, strict=True)
                results[f"{option} {attempt}"] = max(float((a - b).abs().max()) for a, b in pairs)
            except FxcacheError as error:
                results[f"{option} {attempt}"] = [type(error).__name__, str(error)]
        results[f"{option} took"] = time.monotonic() - start
    return results


def _refuse_trace(module: nn.Module, args: Any) -> None:
    if isinstance(args[0], FakeTensor):
        raise RuntimeError("this rank cannot be traced")


def one_rank_fails_later() -> Any:
    """Three steps are cached; then a rank's model changed, and cannot be captured. Then it can again."""
    given = [own(x) for x in samples()]
    plain = run(Model().eval(), given)
    results: dict[str, Any] = {}
    for option in ("raise", "passthrough"):
        together, found = parts(NEVER, on_unsupported=option), list[float]()
        start = time.monotonic()
        with torch.no_grad():
            for i, x in enumerate(given):
                together.original.unreadable = dist.get_rank() == 1 and i in (3, 4)
                try:
                    output = together(x, torch.full((2,), 1 - i / STEPS))
                    found.append(float((output - plain[i]).abs().max()))
                except FxcacheError as error:
                    results.setdefault(option, []).append((i, type(error).__name__, str(error)))
        results[f"{option} off"], results[f"{option} took"] = found, time.monotonic() - start
    return results


def one_rank_stops() -> Any:
    """What running uncached does not mend on one rank is an error on all, even of those that pass through."""
    given = own(samples()[0])
    found: dict[str, Any] = {}

    def outcome(name: str, model: Any, *inputs: Tensor) -> None:
        try:
            with torch.no_grad():
                model(*inputs)
            found[name] = ["ran"]
        except Exception as error:
            found[name] = [type(error).__name__, str(error)]

    together, last = parts(ALWAYS, on_unsupported="passthrough"), dist.get_rank() == 2
    together.original._is_cached = last
    outcome("another cache", together, given, torch.ones(2))
    together.original._is_cached = False
    outcome("afterwards", together, given, torch.ones(2))
    strict = parts(ALWAYS)
    outcome("an argument short", strict, *((given,) if last else (given, torch.ones(2))))
    outcome("all of them", strict, given)
    few = parts(ALWAYS, max_contexts=1 if last else 9)
    with few.cache_context("one"):
        outcome("one context", few, given, torch.ones(2))
    with few.cache_context("two"):
        outcome("two contexts", few, given, torch.ones(2))
    mixed = parts(ALWAYS, on_unsupported="raise" if last else "passthrough")
    mixed.original.unreadable = last
    outcome("not all pass through", mixed, given, torch.ones(2))
    return found


def ranks_differ() -> Any:
    """Settings, gradients or a cache that is off on one rank: an error on all; afterwards all is well."""
    rank, given = dist.get_rank(), [own(x) for x in samples()]
    results: dict[str, Any] = {}

    def refused(name: str, call: Callable[[], Any]) -> None:
        try:
            call()
            results[name] = None
        except PeersError as error:
            results[name] = str(error)

    refused("settings", lambda: run(parts(f"F1B0_W2M0MC2_T0O1_R{0.1 + rank}"), given, steps=1))
    refused("blocks", lambda: run(parts(f"F{1 + (rank == 1)}B0_W2M0MC2_T0O1_R9"), given, steps=1))
    together = parts(ALWAYS)

    def with_gradients() -> None:
        with torch.set_grad_enabled(rank == 1):
            together(given[0], torch.ones(2))

    refused("gradients", with_gradients)
    together.reset()
    off = parts(ALWAYS)
    off.configure(enabled=rank != 1)
    refused("switched off", lambda: run(off, given, steps=1))
    run(together, given)
    results["then"] = hits(together)
    with together.cache_context("later", f"F1B0_W{2 + rank}M0MC2_T0O1_R9"):
        run(together, given)
    results["settings of a context"] = hits(together, "later")
    return results


def an_error_amid_a_step() -> Any:
    """One rank raises behind its last collective; all go on, from where a run begins."""
    together, given = parts(ALWAYS), [own(x) for x in samples()]
    outcomes: list[str] = []
    with torch.no_grad():
        for i, x in enumerate(given):
            together.original.blocks[-1].failing = i == 4 and dist.get_rank() == 1
            try:
                together(x, torch.full((2,), 1 - i / STEPS))
                outcomes.append("ran")
            except RuntimeError as error:
                outcomes.append(str(error))
    found = hits(together)
    run(together, given)
    return {"outcomes": outcomes, "hits": found, "then": hits(together)}


def a_sample_each() -> Any:
    """A vote: a step is a hit where it is one for all, by thresholds that need not be the same."""
    rank = dist.get_rank()
    given = samples(seed=rank)
    alone = fxcache.transform(Model(Block).eval(), NEVER)
    run(alone, given)
    config = fxcache.CacheConfig.from_string(NEVER).replace(
        residual_diff_threshold=float(alone.stats()["default"].diff_quantiles[(50, 75, 90)[rank]])
    )
    alone.configure(config)
    run(alone, given)
    voted = parts(config, agree="each")
    run(voted, given)
    uncached = parts(NEVER, agree="each")
    pairs = zip(run(uncached, given), run(Model(Block).eval(), given), strict=True)
    off = max(float((a - b).abs().max()) for a, b in pairs)
    return {"hits": hits(voted), "hits alone": hits(alone), "said": str(voted.stats()), "off": off}


def told_of_nobody() -> Any:
    """Collectives in blocks, and nothing that says with whom: a warning, once."""
    found: dict[str, Any] = {}
    for name, options in (("auto", {}), ("none", {"process_group": None})):
        model: Any = fxcache.transform(Model().eval(), NEVER, **options)  # type: ignore[call-overload]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run(model, [own(x) for x in samples()], steps=3)
        found[name] = [str(w.message) for w in caught if w.category is ProcessesWarning]
    return found


def refused() -> Any:
    """What is no group, and a package."""
    found: dict[str, Any] = {}
    for given in (7, "all"):
        try:
            fxcache.transform(Model(), NEVER, process_group=given)
        except FxcacheError as error:
            found[str(given)] = str(error)
    try:
        fxcache.export(parts(), "unused.pt2", {})
    except ExportError as error:
        found["export"] = str(error)
    return found


SCENARIOS = by_name(
    as_one_process,
    policies,
    more_policies,
    one_context_follows,
    one_rank_fails,
    one_rank_fails_later,
    one_rank_stops,
    ranks_differ,
    an_error_amid_a_step,
    a_sample_each,
    told_of_nobody,
    refused,
)

if __name__ == "__main__":
    main(SCENARIOS, sys.argv[1], sys.argv[2:])
