"""The player against a plain loop over the rows of a plan."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache import Plan
from fxcache.calibration.player import Played, Player
from tests.toy import latents, timesteps, toy

STEPS = 6
PLAN = Plan(
    steps=STEPS,
    computed=(0, 1, 3, 5),
    weights=((1, 0, 0), (1, 0, 0), (0, 2, -1), (1.5, -0.25, -0.25), (0, 0.5, 0.5), (1, 0, 0)),
)


class Toy(nn.Module):
    """Says something different in each call, and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, sample: Tensor, timestep: Tensor, twice: bool = False) -> tuple[Tensor, str]:
        self.calls += 1
        return torch.sin(sample * 3 + timestep), f"call {self.calls}"


def times() -> Iterator[Tensor]:
    yield from torch.linspace(1, 0.1, STEPS)


def by_hand(values: list[Tensor], plan: Plan) -> list[Tensor]:
    """What `plan` makes of the values that a model would return at every step."""
    given, past = [], list[Tensor]()
    for step, (own, *rest) in enumerate(plan.weights):
        total = own * values[step] + sum(w * p for w, p in zip(rest, past, strict=False))
        given.append(torch.as_tensor(total))
        past = [values[step], *past] if step in plan.computed else past
    return given


def test_steps_are_the_sums_of_the_rows() -> None:
    sample = torch.randn(2, 3)
    player = Player(Toy(), PLAN)
    given = [player(sample, t)[0] for t in times()]
    expected = by_hand([Toy()(sample, t)[0] for t in times()], PLAN)
    torch.testing.assert_close(torch.stack(given), torch.stack(expected))
    assert player.calls == len(PLAN.computed)


def test_two_calls_of_a_step_have_histories_of_their_own() -> None:
    one, two = torch.randn(2, 3), torch.randn(2, 3)
    together = Player(Toy(), PLAN)
    pairs = [(together(one, t)[0], together(two, t)[0]) for t in times()]
    for sample, found in zip((one, two), zip(*pairs, strict=True), strict=True):
        alone = Player(Toy(), PLAN)
        assert all(map(torch.equal, found, [alone(sample, t)[0] for t in times()]))


def test_a_timestep_that_goes_back_begins_a_new_run() -> None:
    sample, player = torch.randn(2, 3), Player(Toy(), PLAN)
    first, second = ([player(sample, t)[0] for t in times()] for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_a_run_of_other_timesteps_computes_uncorrected() -> None:
    sample = torch.randn(2, 3)
    player = Player(Toy(), PLAN.replace(timesteps=[9, 8, 7, 6, 5, 4]))
    for t in times():
        assert torch.equal(player(sample, t)[0], Toy()(sample, t)[0])


def test_steps_beyond_the_plan_compute() -> None:
    player = Player(Toy(), PLAN)
    for t in torch.linspace(1, 0.1, STEPS + 3):
        player(torch.ones(1), t)
    assert player.calls == len(PLAN.computed) + 3


def test_sums_of_half_precision_are_taken_in_float32() -> None:
    plan = Plan(steps=3, computed=(0, 1), weights=((1, 0, 0), (1, 0, 0), (0, 100, -99)))

    class Rising(nn.Module):
        def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
            return torch.full((1,), 1.0 + 0.0078125 * float(timestep), dtype=torch.bfloat16)

    player = Player(Rising(), plan)
    *_, last = (player(torch.ones(1), torch.tensor(float(t))) for t in range(3))
    assert last.dtype == torch.bfloat16
    assert last.item() == pytest.approx(1 + 0.78125, rel=2**-8)


def test_each_call_is_observed() -> None:
    seen = list[Played]()
    player = Player(Toy(), PLAN, observe=seen.append)
    for t in times():
        player(torch.ones(1), timestep=t)
    assert [call.step for call in seen if call.value is None] == list(PLAN.hits)
    assert seen[1].inputs.keys() == {"sample", "timestep"}


def test_a_model_without_a_timestep_is_refused() -> None:
    class Timeless(nn.Module):
        def forward(self, sample: Tensor) -> Tensor:
            return sample

    with pytest.raises(fxcache.FxcacheError, match=r"no timestep.*timestep="):
        Player(Timeless(), PLAN)(torch.ones(1))


def test_what_a_sampler_writes_to_outputs_does_not_reach_the_history() -> None:
    plan = fxcache.Plan(steps=3, computed=(0,), weights=((1, 0), (0, 1), (0, 1)))
    player, outputs = Player(toy(), plan), []
    with torch.no_grad():
        for x, t in zip(latents(3, 0), timesteps(3), strict=True):
            found = player(x, t)
            outputs.append(found.clone())
            found.zero_()
    assert outputs[0].any() and torch.equal(outputs[1], outputs[0]) and torch.equal(outputs[2], outputs[0])
