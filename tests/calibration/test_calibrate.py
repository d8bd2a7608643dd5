"""Calibration of small samplers whose answers are known, and of pipelines of every kind."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.schedulers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor, nn

import fxcache
from fxcache import Frontier, Plan
from fxcache.calibration.passes import Answers, observed
from fxcache.calibration.player import Player
from fxcache.calibration.record import Record, Recorder
from fxcache.calibration.results import pictures, psnr
from fxcache.embedded import class_embeddings, load_pipeline
from fxcache.errors import CalibrationError
from fxcache.plans.fit import fit, simulate
from fxcache.plans.formula import weights
from fxcache.plans.response import responses
from tests.behaviour.faults.base import build
from tests.behaviour.pipelines.build import FLUX, SD3, WAN
from tests.behaviour.zoo.draw import Draw

STEPS = 8
QUIET: dict[str, Any] = {"on_progress": lambda done, total, text: None}


class Field(nn.Module):
    """dx/dt = rate * x, another rate for each of three elements; or the same everywhere (constant)."""

    def __init__(self, rates: tuple[float, ...] = (-0.5, 1.0, 2.0), constant: bool = False) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.tensor(rates, dtype=torch.float64), requires_grad=False)
        self.constant = constant
        self.calls = 0

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        self.calls += 1
        return self.rates.expand_as(sample) if self.constant else self.rates * sample


def noise(i: int) -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(i), dtype=torch.float64)


def euler(model: nn.Module, i: int, steps: int = STEPS) -> Tensor:
    x = noise(i)
    times = torch.linspace(1, 0, steps + 1)
    for now, then in itertools.pairwise(times):
        x = x + (then - now) * model(x, timestep=now)
    return x


def scheduled(scheduler: Any, steps: int = 10) -> Callable[[nn.Module, int], Tensor]:
    """A run with a scheduler of diffusers."""

    def run(model: nn.Module, i: int) -> Tensor:
        scheduler.set_timesteps(steps)
        x = noise(i)
        for t in scheduler.timesteps:
            x = scheduler.step(model(x, timestep=t), t, x).prev_sample
        return x

    return run


def recorded(model: nn.Module, run: Callable[[nn.Module, int], Any], i: int = 0) -> Record:
    recorder = Recorder()
    run(Player(model, observe=recorder.observer("model")), i)
    return recorder.record()


def test_a_linear_field_of_three_rates_is_followed_exactly() -> None:
    """Three values make any combination of three exponentials: with no prior, every later hit is exact."""
    plain = [recorded(Field(), euler, i) for i in range(3)]
    unit = ((1.0, 0.0, 0.0, 0.0),) * STEPS
    found = responses([r.latents for r in plain], [r.outputs for r in plain])
    seen = observed(plain, plain, unit, found)
    computed = (0, 1, 2, 4, 7)
    fitted = fit(seen, computed, weights(STEPS, computed), ridge=0.0)
    assert fitted.errors.max() < 1e-9
    plan = Plan(steps=STEPS, computed=computed, weights=fitted.rows)
    torch.testing.assert_close(euler(Player(Field(), plan), 9), euler(Field(), 9), rtol=1e-4, atol=1e-4)


def test_calibrated_is_nearer_than_by_formula() -> None:
    plan = fxcache.calibrate(Field(), run=euler, runs=4, speedup=1.5, search=False, **QUIET)
    plain, planned = euler(Field(), 9), euler(Player(Field(), plan), 9)
    by_formula = euler(Player(Field(), fxcache.plan(STEPS, 1.5)), 9)
    assert (planned - plain).norm() < 0.1 * (by_formula - plain).norm()


class Turning(nn.Module):
    """dx/dt is 3 times x turned by a right angle: what an error of x changes is never along the error."""

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return 3 * torch.stack((-sample[:, 1], sample[:, 0], 0 * sample[:, 2]), dim=1)


def test_scatter_is_measured_and_what_it_does_later_is_counted() -> None:
    def flat(model: nn.Module, i: int) -> Tensor:
        x = noise(i) * torch.tensor([1.0, 1.0, 0.0])
        for now, then in itertools.pairwise(torch.linspace(1, 0, STEPS + 1)):
            x = x + (then - now) * model(x, timestep=now)
        return x

    plain = [recorded(Turning(), flat, i) for i in range(3)]
    computed = (0, 2, 4, 7)
    rows = weights(STEPS, computed)
    plan = Plan(steps=STEPS, computed=computed, weights=rows)
    answers = Answers(STEPS)
    assert answers.known() == ((), ())
    recorder = Recorder()
    for i, record in enumerate(plain):
        flat(Player(Turning(), plan, observe=recorder.observer("model")), i)
        answers.add([record], [recorder.record(record)])
        recorder = Recorder()
    echoes, scatters = answers.known()
    assert echoes == pytest.approx([0.0] * STEPS, abs=1e-3)
    assert scatters == pytest.approx([3.0] * STEPS, rel=1e-3)

    found = responses([r.latents for r in plain], [r.outputs for r in plain])
    unit = ((1.0, 0.0, 0.0, 0.0),) * STEPS
    blind, seen = observed(plain, plain, unit, found), observed(plain, plain, unit, found, answers)
    assert (simulate(seen, rows) > simulate(blind, rows)).all()
    assert torch.equal(simulate(seen, unit), simulate(blind, unit))  # without errors there is no scatter


def test_on_a_constant_field_weights_sum_to_1() -> None:
    plan = fxcache.calibrate(Field(constant=True), run=euler, runs=4, speedup=2, **QUIET)
    for row in plan.weights:
        assert sum(row) == pytest.approx(1, abs=1e-9)
    assert plan.quality is not None and plan.quality.psnr == 120


def test_a_plan_is_what_the_player_was_measured_to_do() -> None:
    plan = fxcache.calibrate(Field(), run=euler, runs=4, speedup=3, **QUIET)
    found = psnr(pictures(euler(Field(), 3)), pictures(euler(Player(Field(), plan), 3)))
    assert plan.quality is not None
    assert (plan.runs, plan.quality.runs) == (3, 1)
    assert sum(found) / len(found) == pytest.approx(plan.quality.psnr)
    assert plan.timesteps == pytest.approx([1 - i / STEPS for i in range(STEPS)])
    assert plan.model == "Field"


def test_several_speedups_are_a_frontier() -> None:
    model = Field()
    frontier = fxcache.calibrate(model, run=euler, runs=4, speedup=(1.5, 4), **QUIET)
    assert isinstance(frontier, Frontier)
    assert [len(p.computed) for p in frontier.plans if isinstance(p, Plan)] == [5, 2]


def test_a_quality_asks_for_the_fastest_plan_that_has_it() -> None:
    plan = fxcache.calibrate(Field(), run=euler, runs=4, psnr=30, search=False, **QUIET)
    assert plan.quality.psnr >= 30
    faster = fxcache.calibrate(
        Field(), run=euler, runs=4, speedup=STEPS / (len(plan.computed) - 1), search=False, **QUIET
    )
    assert faster.quality.psnr < 30


class Conditioned(nn.Module):
    """Says something different of each half of a batch."""

    def forward(self, sample: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        return torch.tanh(sample * label)


def test_the_gains_of_guidance_in_one_batch_are_found() -> None:
    labels = torch.tensor([1.0] * 4 + [-0.5] * 4)[:, None].double()

    def run(model: nn.Module, i: int) -> Tensor:
        x = noise(i)
        times = torch.linspace(1, 0, STEPS + 1)
        for now, then in itertools.pairwise(times):
            one, two = model(torch.cat((x, x)), timestep=now.expand(8), label=labels).chunk(2)
            x = x + (then - now) * (3 * one - 2 * two)
        return x

    record = recorded(Conditioned(), run)
    assert (record.streams, record.copies) == (2, 2)
    found = responses([record.latents], [record.outputs])[0]
    assert found is not None
    assert found.gains == pytest.approx((-3 / STEPS, 2 / STEPS), rel=1e-4)
    plan = fxcache.calibrate(Conditioned(), run=run, runs=4, speedup=2, **QUIET)
    assert len(plan.computed) == 4


def test_the_gains_of_guidance_in_two_calls_are_found() -> None:
    class Pipe(nn.Module):
        def forward(self, sample: Tensor, timestep: Tensor, label: float) -> Tensor:
            return torch.tanh(sample * label)

    def run(model: nn.Module, i: int) -> Tensor:
        x = noise(i)
        times = torch.linspace(1, 0, STEPS + 1)
        for now, then in itertools.pairwise(times):
            x = x + (then - now) * (3 * model(x, now, 1.0) - 2 * model(x, now, -0.5))
        return x

    record = recorded(Pipe(), run)
    assert [step.calls for step in record.steps] == [2] * STEPS
    found = responses([record.latents], [record.outputs])[0]
    assert found is not None
    assert found.gains == pytest.approx((-3 / STEPS, 2 / STEPS), rel=1e-4)


@pytest.mark.parametrize("order", [DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_the_response_of_a_sampler_that_remembers_a_step(order: Any) -> None:
    """Found on four runs, it says the next latents of a fifth."""
    model = Field((-0.3, 0.2, 0.5))

    class Wavy(nn.Module):
        def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
            return torch.sin(3 * sample) * model.rates + torch.cos(timestep / 200)

    run = scheduled(order(prediction_type="epsilon"))
    records = [recorded(Wavy(), run, i) for i in range(9)]
    *known, other = records
    found = responses([r.latents for r in known], [r.outputs for r in known])
    for step in range(2, 8):
        r = found[step]
        assert r is not None
        x, y = other.latents, other.outputs[:, 0]
        said = r.own * x[step] + r.gains[0] * y[step] + r.lagged_own * x[step - 1]
        said = said + (r.lagged_gains or (0.0,))[0] * y[step - 1]
        moved = (x[step + 1] - x[step]).norm()
        assert (said - x[step + 1]).norm() < 0.05 * moved
    plan = fxcache.calibrate(Wavy(), run=run, runs=4, speedup=2, **QUIET)
    assert plan.steps == 10


def test_a_solver_that_calls_the_model_twice_a_step_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"second-order solver.*Euler"):
        fxcache.calibrate(Field(), run=scheduled(FlowMatchHeunDiscreteScheduler()), runs=2, **QUIET)


def test_runs_of_different_steps_are_refused() -> None:
    with pytest.raises(CalibrationError, match=r"run 1 makes other calls.*same number of steps"):
        fxcache.calibrate(Field(), run=lambda model, i: euler(model, i, 6 + i), runs=2, **QUIET)


def test_one_step_is_refused() -> None:
    with pytest.raises(CalibrationError, match="one step"):
        fxcache.calibrate(Field(), run=lambda model, i: euler(model, i, 1), runs=2, **QUIET)


def test_outputs_unlike_the_latents_are_refused() -> None:
    class Flat(nn.Module):
        def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
            return sample.flatten()

    def run(model: nn.Module, i: int) -> Tensor:
        return model(noise(i), timestep=torch.ones(1))

    with pytest.raises(CalibrationError, match="no input of the denoiser is like its output"):
        fxcache.calibrate(Flat(), run=run, runs=2, **QUIET)


def test_a_run_with_other_noise_when_repeated_is_refused() -> None:
    numbers = iter(range(1000))

    def run(model: nn.Module, i: int) -> Tensor:
        return euler(model, next(numbers))

    with pytest.raises(CalibrationError, match=r"other latents when it was repeated.*generator"):
        fxcache.calibrate(Field(), run=run, runs=2, **QUIET)


def test_noise_of_torchs_own_generator_is_repeated() -> None:
    def run(model: nn.Module, i: int) -> Tensor:
        x = torch.randn(4, 3)
        for now in torch.linspace(1, 0.1, STEPS):
            x = x - model(x, timestep=now).float() / STEPS
        return x

    torch.manual_seed(0)
    before = torch.get_rng_state()
    fxcache.calibrate(Field(), run=run, runs=3, speedup=2, **QUIET)
    assert torch.equal(before, torch.get_rng_state())


def test_a_calibration_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    done = list[int]()

    def run(model: nn.Module, i: int) -> Tensor:
        done.append(i)
        if done.count(2) == 1 and i == 2 and len(done) == 3:
            raise KeyboardInterrupt
        return euler(model, i)

    options: dict[str, Any] = {
        "run": run,
        "runs": 4,
        "speedup": 2,
        "checkpoint": tmp_path / "runs.pt",
        **QUIET,
    }
    with pytest.raises(KeyboardInterrupt):
        fxcache.calibrate(Field(), **options)
    done[:] = [0, 0, 0, 0]
    resumed = fxcache.calibrate(Field(), **options)
    assert done[4:6] == [2, 3]
    assert resumed == fxcache.calibrate(Field(), run=euler, runs=4, speedup=2, **QUIET)


def test_records_of_another_model_are_not_used(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "run": euler,
        "runs": 3,
        "speedup": 2,
        "checkpoint": tmp_path / "a.pt",
        **QUIET,
    }
    fxcache.calibrate(Field(), **options)
    other = fxcache.calibrate(Field((0.1, 0.2, -0.3)), **options)
    assert other == fxcache.calibrate(Field((0.1, 0.2, -0.3)), run=euler, runs=3, speedup=2, **QUIET)


def embedded_call(label: int, scale: float = 1.0, **changes: Any) -> dict[str, Any]:
    prompt, pooled = class_embeddings([label])
    call = {
        "prompt_embeds": prompt,
        "pooled_prompt_embeds": pooled,
        "height": 28,
        "width": 28,
        "num_inference_steps": 6,
        "generator": torch.Generator().manual_seed(label),
        "output_type": "latent",
    }
    if scale > 1:
        null, flat = class_embeddings([10])
        call |= {
            "true_cfg_scale": scale,
            "negative_prompt_embeds": null,
            "negative_pooled_prompt_embeds": flat,
        }
    return call | changes


def test_guidance_in_two_contexts_of_flux() -> None:
    pipe = load_pipeline()
    calls = [embedded_call(label, scale=2.0) for label in range(3)]
    states = [call["generator"].get_state() for call in calls]
    transformer = pipe.transformer
    plan = fxcache.calibrate(pipe, calls, speedup=2, held_out=1, **QUIET)
    assert pipe.transformer is transformer
    assert (plan.model, plan.scheduler) == ("FluxTransformer2DModel", "FlowMatchEulerDiscreteScheduler")
    assert all(torch.equal(s, c["generator"].get_state()) for s, c in zip(states, calls, strict=True))
    # What was measured on the call held out is what the plan does.
    plain = pipe(**calls[2]).images
    calls[2]["generator"].set_state(states[2])
    pipe.transformer = Player(transformer, plan)
    planned = pipe(**calls[2]).images
    error = ((planned - plain) ** 2).mean() / (plain.max() - plain.min()) ** 2
    assert plan.quality.psnr == pytest.approx(float(-10 * error.log10()), abs=0.01)


def test_a_pipeline_is_left_as_it_was_after_an_error() -> None:
    pipe = load_pipeline()
    transformer, shown = pipe.transformer, pipe._progress_bar_config
    with pytest.raises(CalibrationError, match="run 1"):
        fxcache.calibrate(
            pipe, [embedded_call(0), embedded_call(1, num_inference_steps=4)], speedup=2, **QUIET
        )
    assert pipe.transformer is transformer
    assert pipe._progress_bar_config == shown


def test_a_cached_pipeline_is_calibrated_without_its_cache() -> None:
    pipe = load_pipeline()
    plain = fxcache.calibrate(pipe, [embedded_call(0), embedded_call(1)], speedup=2, search=False, **QUIET)
    fxcache.transform(pipe, "F1B0_W2M0MC3_T0O1_R0.3")
    cached = pipe.transformer
    again = fxcache.calibrate(pipe, [embedded_call(0), embedded_call(1)], speedup=2, search=False, **QUIET)
    assert again == plain
    assert pipe.transformer is cached


class Entered(nn.Module):
    """Called by a method of its own, with the time under no usual name."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))

    def guided(self, sample: Tensor, when: Tensor, note: Any = None) -> Tensor:
        for block in self.blocks:
            sample = sample + block(sample).tanh() * 0.1
        return sample * (1 + when)

    def forward(self, sample: Tensor) -> Tensor:
        raise AssertionError("nobody calls this")


def test_what_was_transformed_is_entered_and_captured_as_it_was_told() -> None:
    def run(model: Any, i: int) -> Tensor:
        x = noise(i).float()
        with torch.no_grad():
            for now in torch.linspace(1, 0.1, STEPS):
                x = x - model.guided(x, now.reshape(1), note=object()) / STEPS
        return x

    model = build(Entered)
    with pytest.raises(CalibrationError, match=r"called no denoiser.*method="):
        fxcache.calibrate(model, run=run, runs=4, speedup=2, **QUIET)
    options: dict[str, Any] = {"method": "guided", "timestep": "when", "ignore": ["note"]}
    cached = fxcache.transform(model, "F1B0_W1M0MC2_T1O1_R0.1", **options)
    plan = fxcache.calibrate(cached, run=run, runs=4, speedup=2, **QUIET)
    assert plan.steps == STEPS and plan.speedup == pytest.approx(2)
    planned = fxcache.transform(model, plan, **options)
    run(planned, 0)
    assert planned.stats()["default"].hits == tuple(i not in plan.computed for i in range(STEPS))
    with pytest.raises(CalibrationError, match=r"entered by their forward, not guided\(\)"):
        fxcache.calibrate(cached, run=run, runs=4, config="F1B0_W1M0MC2_T1O1_R0.1", **QUIET)


def test_two_denoisers_have_a_plan_each() -> None:
    pipe = WAN.load()
    inputs = WAN.inputs(Draw(7))
    calls = [
        {
            **inputs,
            "num_inference_steps": 8,
            "output_type": "latent",
            "generator": torch.Generator().manual_seed(i),
        }
        for i in range(2)
    ]
    plans = fxcache.calibrate(pipe, calls, speedup=2, **QUIET)
    assert set(plans) == {"transformer", "transformer_2"}
    assert sum(plan.steps for plan in plans.values()) == 8
    first, second = plans["transformer"], plans["transformer_2"]
    assert first.timesteps[-1] > second.timesteps[0]


@pytest.mark.parametrize("case", [FLUX, SD3], ids=lambda c: c.name)
def test_pipelines_of_random_weights(case: Any) -> None:
    pipe = case.load()
    calls = [
        {
            **case.inputs(Draw(7)),
            "num_inference_steps": 6,
            "output_type": "latent",
            "generator": torch.Generator().manual_seed(i),
        }
        for i in range(2)
    ]
    plan = fxcache.calibrate(pipe, calls, speedup=2, search=False, **QUIET)
    assert (plan.steps, len(plan.computed)) == (6, 3)


def test_fewer_steps_of_a_picture_to_begin_with() -> None:
    """Image to image begins in the middle of the schedule: a plan has the steps that are run."""
    scheduler = FlowMatchEulerDiscreteScheduler()

    def run(model: nn.Module, i: int) -> Tensor:
        scheduler.set_timesteps(10)
        scheduler.set_begin_index(4)
        x = noise(i)
        for t in scheduler.timesteps[4:]:
            x = scheduler.step(model(x, timestep=t), t, x).prev_sample
        return x

    plan = fxcache.calibrate(Field(), run=run, runs=2, speedup=2, **QUIET)
    assert plan.steps == 6


def test_guidance_as_an_input_is_one_stream() -> None:
    class Guided(nn.Module):
        def forward(self, sample: Tensor, timestep: Tensor, guidance: Tensor) -> Tensor:
            return torch.tanh(sample * guidance[:, None])

    def run(model: nn.Module, i: int) -> Tensor:
        return euler(lambda x, timestep: model(x, timestep, guidance=torch.full((4,), 1.5).double()), i)  # type: ignore

    assert recorded(Guided(), run).streams == 1
    assert fxcache.calibrate(Guided(), run=run, runs=2, speedup=2, **QUIET).steps == STEPS


def test_progress_says_what_it_will_cost_and_stays_within() -> None:
    told = list[tuple[float, float, str]]()
    fxcache.calibrate(Field(), run=euler, runs=4, speedup=2, on_progress=lambda *now: told.append(now))
    assert told[0] == (0.0, 30.0, "4 plain runs; at most 30 samplings in all")
    assert told[-1][0] <= told[-1][1]
