"""A model that follows plans: what it gives, what it computes, and when it does not follow them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

import fxcache
from fxcache import CacheConfig, Newton, Plan, Reuse, TaylorSeer
from fxcache.errors import ConfigError, PlanError
from tests.plans.reference import follow
from tests.plans.strategies import plans
from tests.sweep import sweep
from tests.toy import dual, latents, toy

LINE = Plan(
    steps=6,
    computed=(0, 1, 3, 5),
    weights=((1, 0, 0), (1, 0, 0), (0, 2, -1), (1.5, -1, 0.5), (0, 1.5, -0.5), (1, 0, 0)),
    timesteps=(1000, 800, 600, 400, 200, 100),
)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def times(plan: Plan) -> list[Tensor]:
    assert plan.timesteps is not None
    return [torch.tensor([t]) for t in plan.timesteps]


def run(model: Callable[..., Tensor], plan: Plan, seed: int = 0) -> list[Tensor]:
    return [model(x, t) for x, t in zip(latents(plan.steps, seed), times(plan), strict=True)]


def expected(plan: Plan, seed: int = 0) -> list[Tensor]:
    """Of a toy, in a plain loop."""
    model, inputs = toy(), list(zip(latents(plan.steps, seed), times(plan), strict=True))
    return follow(plan, [lambda i=i: model(*inputs[i]) for i in range(plan.steps)])


@pytest.mark.parametrize("examples", sweep((3, 20), (3,)))
def test_where_every_step_is_computed_the_model_is_the_models_own(examples: int) -> None:
    check = given(plans(unit=True))(_is_the_models_own)
    settings(max_examples=examples, deadline=None)(check)()


def _is_the_models_own(plan: Plan) -> None:
    model = toy()
    for got, want in zip(run(fxcache.transform(model, plan), plan), run(model, plan), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("examples", sweep((5, 40), (5,)))
def test_any_plan_is_its_sum(examples: int) -> None:
    settings(max_examples=examples, deadline=None)(given(plans())(_is_its_sum))()


def _is_its_sum(plan: Plan) -> None:
    cached = fxcache.transform(toy(), plan)
    for got, want in zip(run(cached, plan), expected(plan), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)
    assert cached.stats()["default"].cached_steps == plan.hits


@pytest.mark.parametrize("level", ["residual", "hidden_states"])
@pytest.mark.parametrize(("fn", "bn"), [(0, 0), (1, 0), (1, 1), (0, 2)])
def test_a_middle_follows_a_plan(level: str, fn: int, bn: int) -> None:
    plan = LINE.replace(level=level, fn_compute_blocks=fn, bn_compute_blocks=bn)
    model = toy()
    got = run(fxcache.transform(model, plan), plan)

    def before(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        h, temb = model.embed(x), torch.sin(t).reshape(-1, 1, 1)
        for block in model.blocks[:fn]:
            h = block(h, temb)
        return h, temb

    streams = [before(x, t) for x, t in zip(latents(plan.steps, 0), times(plan), strict=True)]

    def middle(i: int) -> Tensor:
        h, temb = streams[i]
        given = h
        for block in model.blocks[fn : len(model.blocks) - bn]:
            h = block(h, temb)
        return h - given if level == "residual" else h

    used = follow(plan, [lambda i=i: middle(i) for i in range(plan.steps)])
    for (h, temb), value, result in zip(streams, used, got, strict=True):
        after = h + value.float() if level == "residual" else value.float()
        for block in model.blocks[len(model.blocks) - bn :]:
            after = block(after, temb)
        torch.testing.assert_close(result, model.head(after), rtol=1e-4, atol=1e-5)


def test_a_hit_runs_nothing_of_the_model() -> None:
    inputs = {"hidden_states": latents(1, 0)[0], "timestep": torch.tensor([1000.0])}
    found = fxcache.explain(toy(), LINE, inputs)
    assert "all is skipped on a hit" in str(found) and "##.+.#" in str(found)
    assert found.flops_cached == 0 and found.flops_computed is not None and found.flops_computed > 0
    cached = fxcache.transform(toy(), LINE, example_inputs=inputs)
    skip = cached.graph.program.stages["skip"].graph.graph
    assert not skip.find_nodes(op="call_module") and not skip.find_nodes(op="get_attr")


def test_a_model_without_blocks_has_an_output_too() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
            return torch.tanh(self.inner(hidden_states)) * timestep.reshape(-1, 1, 1)

    model = Plain().eval().requires_grad_(False)
    got = run(fxcache.transform(model, LINE), LINE)
    assert torch.equal(got[1], run(model, LINE)[1])
    torch.testing.assert_close(got[2], 2 * got[1] - got[0])


def test_each_of_several_outputs_has_a_history() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = toy(seed=1), toy(seed=2)

        def forward(self, hidden_states: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            first = self.first(hidden_states, timestep)
            return first, self.second(hidden_states, timestep)[:, :2], first.argmax(-1)

    model = Both().eval()
    cached = fxcache.transform(model, LINE)
    results = [cached(x, t) for x, t in zip(latents(6, 0), times(LINE), strict=True)]
    plain = [model(x, t) for x, t in zip(latents(6, 0), times(LINE), strict=True)]
    for output in (0, 1):
        torch.testing.assert_close(results[2][output], 2 * plain[1][output] - plain[0][output])
    assert torch.equal(results[2][2], plain[1][2])  # whole numbers have no differences
    assert torch.equal(results[3][2], plain[3][2])


# ------------------------------------------------------------------ plans that do not belong


@pytest.mark.parametrize("start", [0, 1, 3])
def test_steps_of_other_timesteps_compute_uncorrected(start: int) -> None:
    model = toy()
    cached = fxcache.transform(model, LINE)
    other = [t if i < start else t - 17 for i, t in enumerate(times(LINE))]
    followed = run(fxcache.transform(model, LINE), LINE)
    for i, (x, t) in enumerate(zip(latents(6, 0), other, strict=True)):
        assert torch.equal(cached(x, t), model(x, t) if i >= start else followed[i])
    stats = cached.stats()
    assert stats["default"].unplanned == tuple(range(start, 6))
    assert f"steps {start}-5 are of no plan" in str(stats)


def test_steps_behind_a_plan_compute() -> None:
    plan, model = LINE.replace(timesteps=None), toy()
    cached = fxcache.transform(model, plan)
    for i, x in enumerate(latents(9, 0)):
        t = torch.tensor([1000.0 - 10 * i])
        got = cached(x, t)
        assert i < 6 or torch.equal(got, model(x, t))
    assert cached.stats()["default"].cached_steps == (2, 4)
    assert cached.stats()["default"].unplanned == (6, 7, 8)


def test_a_run_that_stops_early_leaves_nothing_to_the_next() -> None:
    cached = fxcache.transform(toy(), LINE)
    for x, t in list(zip(latents(6, 1), times(LINE), strict=True))[:3]:
        cached(x, t)
    alone = run(fxcache.transform(toy(), LINE), LINE)
    assert all(map(torch.equal, run(cached, LINE), alone))


def test_bfloat16_timesteps_are_the_plans() -> None:
    plan = LINE.replace(timesteps=(997.3, 803.1, 601.7, 402.9, 198.3, 99.7))
    cached = fxcache.transform(toy(), plan)
    for x, t in zip(latents(6, 0), times(plan), strict=True):
        cached(x, t.bfloat16())
    assert cached.stats()["default"].unplanned == ()


def test_timesteps_choose_of_two_plans() -> None:
    other = Plan(steps=3, computed=(0, 1), weights=((1, 0), (1, 0), (0, 1)), timesteps=(1000, 500, 250))
    cached = fxcache.transform(toy(), [LINE, other])
    for plan in (LINE, other, LINE):
        for got, want in zip(run(cached, plan), expected(plan), strict=True):
            torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)
        assert cached.stats()["default"].cached_steps == plan.hits


def test_a_plan_for_another_model_is_refused() -> None:
    with pytest.raises(PlanError, match="made for FluxTransformer2DModel, not for ToyDiT"):
        fxcache.transform(toy(), LINE.replace(model="FluxTransformer2DModel"))


# ------------------------------------------------------------------ another plan for the same graph


def test_another_plan_takes_no_capture() -> None:
    cached = fxcache.transform(toy(), LINE)
    run(cached, LINE)
    before = [cached.graph.program.graph]
    other = LINE.replace(computed=(0, 5), weights=((1, 0), *[(0, 1)] * 4, (1, 0)))
    cached.use(other)
    for got, want in zip(run(cached, other), expected(other), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)
    assert cached.stats()["default"].cached_steps == (1, 2, 3, 4)
    assert [cached.graph.program.graph] == before and len(cached._specializations.all()) == 1


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (LINE.replace(weights=tuple((*row, 0) for row in LINE.weights)), "3 values"),
        (LINE.replace(level="residual"), "caches the output"),
        (LINE.replace(model="Other"), "made for Other"),
        ([LINE] * 5, "at most 4"),
        ([], "is no plan"),
    ],
)
def test_a_plan_that_the_graph_cannot_follow_is_refused(plan: Plan | list[Plan], says: str) -> None:
    cached = fxcache.transform(toy(), LINE)
    with pytest.raises(PlanError, match=says):
        cached.use(plan)
    assert cached.cache_config.plans == (LINE,)


def test_a_model_without_a_plan_has_none_to_exchange() -> None:
    with pytest.raises(PlanError, match="follows no plan"):
        fxcache.transform(toy(), "F1B0_W4M0MC3_T1O1_R0.12").use(LINE)


def test_what_decides_besides_a_plan_is_refused() -> None:
    with pytest.raises(ConfigError, match="forecaster"):
        CacheConfig.from_plans(LINE).replace(forecaster=TaylorSeer())
    with pytest.raises(ConfigError, match="from_plans"):
        CacheConfig(plans=(LINE,))


def test_the_plan_goes_with_copies_and_pickles_and_files(tmp_path: Path) -> None:
    cached = fxcache.transform(toy(), LINE)
    want = run(cached, LINE)
    for other in (copy.deepcopy(cached), pickle.loads(pickle.dumps(cached))):
        assert all(map(torch.equal, run(other, LINE), want))
    loaded = fxcache.transform(toy(), str(LINE.save(tmp_path / "plan.json")))
    assert all(map(torch.equal, run(loaded, LINE), want))
    assert CacheConfig.from_dict(cached.cache_config.to_dict()) == cached.cache_config


# ------------------------------------------------------------------ compiled; tests/package: packaged


@pytest.mark.parametrize("mode", sweep((None, "single", "staged"), (None,)))
def test_compiled_it_follows_the_plan(mode: str | None) -> None:
    cached = fxcache.transform(toy(), LINE)
    fast = fxcache.compile(cached, mode=mode)
    other = LINE.replace(computed=(0, 5), weights=((1, 0, 0), *[(0, 1, 0)] * 4, (1, 0, 0)))
    for plan in (LINE, other):
        fast.use(plan)
        for got, want in zip(run(fast, plan), expected(plan), strict=True):
            torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)
        assert fast.stats()["default"].cached_steps == plan.hits


# ------------------------------------------------------------------ feedback


@pytest.mark.parametrize("forecaster", [Reuse(), TaylorSeer(order=1), Newton(order=2)])
@pytest.mark.parametrize("level", ["output", "middle"])
def test_a_computed_step_pays_back_what_the_gap_made(forecaster: object, level: str) -> None:
    """Against the sum as it is written, step by step."""
    mask = "1110010001"
    config = CacheConfig(
        fn_compute_blocks=0, steps_mask=mask, steps_mask_policy="static", forecaster=forecaster,  # type: ignore[arg-type]
        level=level, feedback=True,  # type: ignore[arg-type]
    )  # fmt: skip
    model = toy()
    cached, uncorrected = (
        fxcache.transform(model, config),
        fxcache.transform(model, config.replace(feedback=False)),
    )
    order = forecaster.order  # type: ignore[attr-defined]
    degree = 1 if order <= 1 and level == "output" else min(order, 2) + 1
    computed = [i for i, c in enumerate(mask) if c == "1"]
    for i, x in enumerate(latents(10, 3)):
        t = torch.tensor([1000.0 - 90 * i])
        got, plain = cached(x, t), uncorrected(x, t)
        before = [c for c in computed if c < i]
        if mask[i] == "0" or i == 0 or mask[i - 1] == "1":
            assert torch.equal(got, plain)
        elif level == "output":
            past = [before[-1 - d] if d < len(before) else before[-1] for d in range(degree)]

            def grown(at: int, past: list[int] = past) -> float:
                found = 1.0
                for p in past:
                    found *= at - p
                return found

            gain = sum(grown(h) for h in range(before[-1] + 1, i)) / grown(i)
            forecast = _forecast(model, order, before, i)
            torch.testing.assert_close(got, plain + gain * (plain - forecast), rtol=1e-4, atol=1e-4)
        else:
            assert not torch.equal(got, plain)


def _forecast(model: nn.Module, order: int, before: list[int], at: int) -> Tensor:
    """The polynomial through the model's last outputs, by Lagrange's formula."""
    points = before[-1 - order :]
    inputs = latents(10, 3)
    total = torch.zeros_like(inputs[0])
    for p in points:
        weight = 1.0
        for q in points:
            weight *= (at - q) / (p - q) if q != p else 1.0
        total = total + weight * model(inputs[p], torch.tensor([1000.0 - 90 * p]))
    return total


def test_feedback_commutes_with_guidance() -> None:
    """Guiding what a plan makes of cond and uncond is what it makes of the guided output."""
    model = dual()
    a, b = torch.randn(1, 5, 8), torch.randn(1, 5, 8)
    extra = torch.zeros(1, 5, 8)
    cached = fxcache.transform(model, LINE)
    results, outputs = [], []
    for x, t in zip(latents(6, 0), times(LINE), strict=True):
        halves, plain = [], []
        for name, text in (("cond", a), ("uncond", b)):
            with cached.cache_context(name):
                halves.append(cached(x, t, text, extra))
            plain.append(model(x, t, text, extra))
        results.append(halves[1] + 3 * (halves[0] - halves[1]))
        outputs.append(plain[1] + 3 * (plain[0] - plain[1]))
    used = follow(LINE, [lambda o=o: o for o in outputs])
    for got, want in zip(results, used, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)


def test_state_is_a_few_outputs() -> None:
    cached = fxcache.transform(toy(), LINE)
    for x, t in list(zip(latents(6, 0), times(LINE), strict=True))[:3]:
        cached(x, t)
    names = {t.name for t in cached.graph.program.state}
    assert names == {"clock_0", "log_0", "sample_0", "plan_0", "fits_0", "head_history"}


@pytest.mark.parametrize("examples", sweep((3, 20), (3,)))
def test_two_interleaved_runs_follow_their_plans(examples: int) -> None:
    check = given(plans(least=2))(_interleaved_follow_their_plans)
    settings(max_examples=examples, deadline=None)(check)()


def _interleaved_follow_their_plans(plan: Plan) -> None:
    cached = fxcache.transform(toy(), plan)
    seeds = (0, 5)
    got: dict[int, list[Tensor]] = {seed: [] for seed in seeds}
    for step in range(plan.steps):
        for seed in seeds:
            with cached.cache_context(str(seed)):
                got[seed].append(cached(latents(plan.steps, seed)[step], times(plan)[step]))
    for seed in seeds:
        for one, want in zip(got[seed], expected(plan, seed), strict=True):
            torch.testing.assert_close(one.double(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", [LINE, "F1B0_W1M0MC0_T0O1_R1000_LO", "F1B0_W1M0MC0_T1O1_R1000_LO"])
def test_what_a_sampler_writes_to_outputs_does_not_reach_the_history(config: object) -> None:
    written, left = (fxcache.transform(toy(), config) for _ in range(2))  # type: ignore[arg-type]
    for x, t in zip(latents(6, 0), times(LINE), strict=True):
        found = written(x, t)
        assert torch.equal(found, left(x, t))
        found.zero_()
