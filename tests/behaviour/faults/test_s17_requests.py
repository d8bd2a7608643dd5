"""S17: the halves of guidance, called in turn with no context, are told apart by all that they are given."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache import CachedTransformer
from fxcache.errors import TrajectoryWarning
from tests.behaviour.pipelines.build import FLUX
from tests.behaviour.pipelines.test_variants import flux_controlnet, picture, run
from tests.sweep import sweep
from tests.toy import ToyBlock

SETTING = "F1B1_W1M0MC0_T0O1_R1000"  # from the second step on, everything replays: a mix-up shows
STEPS = 8
TIMES = [1000.0 - 120 * i for i in range(STEPS)]

Given = dict[str, Any]
Branch = Callable[[int, Tensor, Given], Given]  # step, sample, what the branches share → arguments


class Controlled(nn.Module):
    """A toy of many inputs, as models with a ControlNet have them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ToyBlock(8) for _ in range(4))

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        text: Tensor,
        pooled: Tensor,
        control: Tensor | None = None,
        guidance: Tensor | None = None,
        skip: int | None = None,
    ) -> Tensor:
        temb = torch.sin(timestep).reshape(-1, 1, 1) + text.mean(dim=1, keepdim=True) + pooled[:, None]
        if guidance is not None:
            temb = temb + guidance.reshape(-1, 1, 1).cos()
        for i, block in enumerate(self.blocks):
            if i != skip:
                hidden_states = block(hidden_states, temb)
            if control is not None:
                hidden_states = hidden_states + control
        return hidden_states


def controlled() -> Controlled:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Controlled().eval().requires_grad_(False)


def cached() -> CachedTransformer:
    return fxcache.transform(controlled(), SETTING)


def noise(*sizes: int, seed: int) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def text(seed: int) -> Tensor:
    return noise(1, 3, 8, seed=100 + seed)


def pooled(seed: int) -> Tensor:
    return noise(1, 8, seed=200 + seed)


def shared_of(step: int, x: Tensor) -> Given:
    """What changes at every step and is given to every branch."""
    return {"control": 0.1 * x.cos(), "guidance": torch.tensor([1 + 0.1 * step])}


def branch(number: int, *shared: str, same: Sequence[str] = (), anew: bool = False, **own: Any) -> Branch:
    """Arguments of one branch: its conditioning, what it shares of the step's, and constants of its own."""
    kept = {
        "text": text(0 if "text" in same else number),
        "pooled": pooled(0 if "pooled" in same else number),
    }

    def given(step: int, x: Tensor, of_step: Given) -> Given:
        conditioning = {n: v.clone() for n, v in kept.items()} if anew else kept
        return {**conditioning, **{n: of_step[n] for n in shared}, **own}

    return given


def scaled(of: Branch, strength: float) -> Branch:
    """`of` with the residuals of a ControlNet of its own."""
    return lambda step, x, shared: {**of(step, x, shared), "control": strength * x.cos()}


def guide(
    models: Sequence[Callable[..., Tensor]],
    branches: Sequence[Branch],
    seed: int = 1,
    times: Sequence[float] = TIMES,
    calls: Callable[[int], Sequence[int]] | None = None,
) -> list[Tensor]:
    """One run, every branch called at every step: x ← x − 0.05 · mean; returns all outputs in order.

    calls: which branches a step calls, in order; by default all.
    """
    x, outputs = noise(1, 5, 8, seed=seed), []
    with torch.no_grad():
        for step, time in enumerate(times):
            shared = shared_of(step, x)
            chosen = range(len(branches)) if calls is None else calls(step)
            made = {b: models[b](x, torch.tensor([time]), **branches[b](step, x, shared)) for b in chosen}
            outputs += [made[b] for b in sorted(made)]
            x = x - 0.05 * torch.stack([made[b] for b in sorted(made)]).mean(dim=0)
    return outputs


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def steps_of(*models: CachedTransformer) -> list[str]:
    """The hits of every trajectory that is known, sorted."""
    every = (c for model in models for c in model.stats().contexts.values())
    return sorted("".join(str(int(h)) for h in c.hits) for c in every)


def check(branches: Sequence[Branch], **options: Any) -> list[str]:
    """Assert that one model returns what a model for each branch returns; returns the hits."""
    one, many = cached(), [cached() for _ in branches]
    together = guide([one] * len(branches), branches, **options)
    assert same(together, guide(many, branches, **options))
    assert steps_of(one) == steps_of(*many)
    return steps_of(one)


FROM_THE_SECOND = "0" + "1" * (STEPS - 2)  # the first change is taken for a new run

CASES: dict[str, tuple[Branch, ...]] = {
    "one ControlNet for both": (branch(1, "control"), branch(2, "control")),
    "one ControlNet for three": tuple(branch(i, "control") for i in (1, 2, 3)),
    "a ControlNet for each": (scaled(branch(1), 0.1), scaled(branch(2), 0.05)),
    "a ControlNet for each, texts that are equal": (scaled(branch(1), 0.1), scaled(branch(1), 0.3)),
    "texts made anew": (branch(1, "control", anew=True), branch(2, "control", anew=True)),
    "only the text differs": tuple(branch(i, "control", same=["pooled"]) for i in (1, 2)),
    "only the pooled text differs, made anew": tuple(
        branch(i, "control", same=["text"], anew=True) for i in (1, 2)
    ),
    "guidance that changes": (branch(1, "guidance"), branch(2, "guidance")),
    "two inputs that change": tuple(branch(i, "guidance", "control", same=["text"]) for i in (1, 2)),
    "an option that differs": (branch(1, "control"), branch(2, "control"), branch(1, "control", skip=2)),
}
FEW = (
    "one ControlNet for both",
    "a ControlNet for each, texts that are equal",
    "only the text differs",
    "two inputs that change",
)


@pytest.mark.parametrize("case", sweep(CASES, FEW))
def test_s17_branches_of_guidance_count_alike_and_are_as_if_alone(case: str) -> None:
    branches = CASES[case]
    assert check(branches) == [FROM_THE_SECOND] * len(branches)


@pytest.mark.parametrize("case", sweep(CASES, FEW[:1]))
def test_s17_branches_of_guidance_in_one_named_context(case: str) -> None:
    branches = CASES[case]
    one, many = cached(), [cached() for _ in branches]
    with one.cache_context("sampling"):
        together = guide([one] * len(branches), branches)
    assert same(together, guide(many, branches))
    assert steps_of(one) == [FROM_THE_SECOND] * len(branches)


def test_s17_inference_mode() -> None:
    with torch.inference_mode():
        branches = (branch(1, "control", "guidance"), branch(2, "control", "guidance"))
        assert check(branches) == [FROM_THE_SECOND] * 2


def test_s17_nothing_that_changes() -> None:
    branches = (branch(1, same=["text"]), branch(2, same=["text"]), branch(2, same=["pooled"]))
    assert check(branches) == ["0" + "1" * (STEPS - 1)] * 3


@pytest.mark.parametrize("order", sweep(([1, 0], [0, 1]), ([1, 0],)))
def test_s17_the_order_of_calls_may_change(order: tuple[int, int]) -> None:
    branches = CASES["one ControlNet for both"]
    hits = check(branches, calls=lambda step: order if step % 2 else order[::-1])
    assert hits == [FROM_THE_SECOND] * 2


@pytest.mark.parametrize("order", [(1, 0), (0, 1)], ids=["uncond first", "cond first"])
@pytest.mark.parametrize("first", sweep((1, 2, 4), (2,)))
def test_s17_guidance_that_sets_in_later(order: tuple[int, int], first: int) -> None:
    """The second half begins when the first one's changing input may be known already."""
    hits = check(CASES["one ControlNet for both"], calls=lambda step: order if step >= first else (0,))
    assert hits == [FROM_THE_SECOND[:-first], FROM_THE_SECOND]


def test_s17_one_batch_for_both() -> None:
    """Guidance as one call a step: nothing to tell apart."""
    both = {n: torch.cat([f(i) for i in (1, 2)]) for n, f in (("text", text), ("pooled", pooled))}
    one, x = cached(), noise(1, 5, 8, seed=1)
    with torch.no_grad():
        for time in TIMES:
            pair = torch.cat([x, x])
            out = one(pair, torch.full((2,), time), **both, control=0.1 * pair.cos())
            x = x - 0.05 * out.mean(dim=0, keepdim=True)
    assert steps_of(one) == [FROM_THE_SECOND]


@pytest.mark.parametrize("swap", [False, True])
def test_s17_branches_that_differ_only_in_what_changes_are_not_cached(swap: bool) -> None:
    """Two could claim each call alike: it computes, whatever the order of calls."""
    prompt = branch(1)
    branches = (scaled(prompt, 0.1), scaled(prompt, 0.3))

    def calls(step: int) -> tuple[int, int]:
        return (1, 0) if swap and step % 2 else (0, 1)

    plain = guide([controlled()] * 2, branches, calls=calls)
    assert same(guide([cached()] * 2, branches, calls=calls), plain)


def test_s17_one_prompt_two_seeds_and_inputs_that_change() -> None:
    """The samples tell these apart, also while it is not known yet what changes."""
    one, many = cached(), [cached(), cached()]
    prompt = branch(1, "control")

    def interleaved(models: Sequence[CachedTransformer]) -> list[list[Tensor]]:
        samples = [noise(1, 5, 8, seed=s) for s in (1, 2)]
        outputs: list[list[Tensor]] = [[], []]
        with torch.no_grad():
            for step, time in enumerate(TIMES):
                for i, x in enumerate(samples):
                    given = prompt(step, x, shared_of(step, x))
                    outputs[i].append(models[i](x, torch.tensor([time]), **given))
                    samples[i] = x - 0.05 * outputs[i][-1]
        return outputs

    for got, want in zip(interleaved([one, one]), interleaved(many), strict=True):
        assert same(got, want)
    assert steps_of(one) == steps_of(*many) == [FROM_THE_SECOND] * 2


@pytest.mark.parametrize("steps", sweep(range(1, STEPS), (3,)))
@pytest.mark.parametrize("seed", [1, 2])
def test_s17_again_after_an_interruption(steps: int, seed: int) -> None:
    """The run that was cut off has the same prompts, and may have the same seed."""
    branches = CASES["one ControlNet for both"]
    one = cached()
    guide([one] * 2, branches, times=TIMES[:steps])
    again = guide([one] * 2, branches, seed=seed)
    many = [cached(), cached()]
    assert same(again, guide(many, branches, seed=seed))
    latest = [one.stats()[name].hits for name in ("default", "default/2")]
    assert latest == [tuple(c == "1" for c in FROM_THE_SECOND)] * 2


def test_s17_requests_without_a_timestep() -> None:
    class NoTime(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = controlled()

        def forward(self, hidden_states: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
            return self.inner(hidden_states, torch.ones(1), text, pooled)

    def interleaved(models: Sequence[nn.Module]) -> list[list[Tensor]]:
        samples, prompt = [noise(1, 5, 8, seed=s) for s in (1, 2)], (text(1), pooled(1))
        outputs: list[list[Tensor]] = [[], []]
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", TrajectoryWarning)
            for _ in TIMES:
                for i, x in enumerate(samples):
                    outputs[i].append(models[i](x, *prompt))
                    samples[i] = x - 0.05 * outputs[i][-1]
        return outputs

    one, *many = (fxcache.transform(NoTime().eval().requires_grad_(False), SETTING) for _ in range(3))
    for got, want in zip(interleaved([one, one]), interleaved(many), strict=True):
        assert same(got, want)
    assert steps_of(one) == steps_of(*many) == ["0" + "1" * (STEPS - 1)] * 2


def test_s17_state_of_what_was_taken_for_a_new_run_is_freed() -> None:
    """A run's beginning, before its changing input was known, holds no memory afterwards."""
    branches = CASES["one ControlNet for both"]
    one, single = cached(), cached()
    guide([one] * 2, branches, times=TIMES[:3])
    guide([single], branches[:1], times=TIMES[:3])
    assert one.stats().state_bytes == 2 * single.stats().state_bytes


def test_s17_flux_controlnet_with_true_guidance(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers calls the transformer twice a step here and names no context."""
    setting, inputs = "F1B0_W2M0MC0_T0O1_R1000", {"control_image": picture(), "num_inference_steps": 8}
    parts = FLUX.load().components
    pipe = diffusers.FluxControlNetPipeline(**parts, controlnet=flux_controlnet(parts["transformer"]))
    model = pipe.transformer

    pipe.transformer = unnamed = fxcache.transform(model, setting)
    got = run(pipe, FLUX, **inputs)

    pipe.transformer = named = fxcache.transform(model, setting)
    forward, names = CachedTransformer.forward, itertools.cycle(("cond", "uncond"))

    def under_a_name(self: CachedTransformer, *args: Any, **kwargs: Any) -> Any:
        with self.cache_context(next(names)):
            return forward(self, *args, **kwargs)

    monkeypatch.setattr(CachedTransformer, "forward", under_a_name)
    assert torch.equal(got, run(pipe, FLUX, **inputs))
    assert set(named.stats().contexts) == {"cond", "uncond"}
    assert steps_of(unnamed) == steps_of(named) == ["0011111"] * 2
