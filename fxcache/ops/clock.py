"""The clock: the numbers that a trajectory remembers, as one small float64 tensor.

Row LIVE holds the numbers after the last step; START and RISEN what a trajectory begins with; HIT is
what a hit adds. They are rows of one state tensor so that a step needs few small operators (on a model
with little to compute these are what a hit costs), and so that the exported package carries its own
starting values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..forecasters.base import PAST, Times

# Columns. PAST_AT .. PAST_AT + PAST - 1: positions of the last computed steps, most recent first.
TIMESTEP, DIRECTION, STEP, HITS, RUN, ACCUMULATED, COMPUTED, PAST_AT = range(8)
WIDTH = PAST_AT + PAST
# Rows.
LIVE, START, RISEN, HIT = range(4)

BEFORE_ANY = 1e300  # a timestep that every other is below; finite, so that JSON can hold it


def initial_clock() -> tuple[tuple[float, ...], ...]:
    """Rows of a clock before the first step."""
    start = [0.0] * WIDTH
    start[TIMESTEP], start[DIRECTION] = BEFORE_ANY, -1.0
    risen = [0.0] * WIDTH
    risen[DIRECTION], risen[STEP] = 1.0, 1.0
    hit = [0.0] * WIDTH
    hit[STEP] = hit[HITS] = hit[RUN] = 1.0
    return tuple(start), tuple(start), tuple(risen), tuple(hit)


def begin_step(clock: Tensor, timestep: Tensor, near: Tensor | None) -> Tensor:
    """The live row at the beginning of this step, restarted where a new trajectory begins.

    Timesteps move one way within a trajectory (down, for almost every model), and the sample moves a
    little. A step that does not move so starts a new one. A rising second step may be either a model
    whose time rises or a new trajectory after one step: it computes, and time is taken to rise from
    there on.

    Args:
        clock: [4, WIDTH] float64.
        timestep: any shape and number type; its mean counts.
        near: 0-dim bool, whether the sample may follow the last one; None for a model without a sample.

    Returns:
        [WIDTH] float64.
    """
    live, start, risen, _ = clock.unbind(0)
    last, direction, step = live[: STEP + 1].unbind(0)  # columns TIMESTEP, DIRECTION, STEP
    time = timestep.mean(dtype=torch.float64).to(clock.device)
    move = time - last
    if near is not None:
        move = move * near  # a leap is as if time stood still
    restart = move * direction <= 0
    second_falling = step * direction == -1
    begin = torch.where(second_falling & (move > 0), risen, start)
    begun = torch.where(restart, begin, live)
    return torch.cat((time.reshape(1), begun[1:]))


def continue_step(clock: Tensor, near: Tensor | None) -> Tensor:
    """As `begin_step`, for a model without a timestep: there the sample alone tells."""
    if near is None:
        return clock[LIVE].clone()
    return torch.where(near, clock[LIVE], clock[START])


def commit_hit(clock: Tensor, now: Tensor, record: Tensor, accumulate: bool) -> None:
    """Count a hit, in place; `accumulate` adds up the diffs."""
    advanced = now + clock[HIT]
    if accumulate:
        advanced[ACCUMULATED] += torch.nan_to_num(record, 0.0, 0.0, 0.0)
    clock[LIVE].copy_(advanced)


def commit_miss(clock: Tensor, now: Tensor, record: Tensor, distance: str) -> None:
    """Count a computed step, in place, and remember where it was."""
    position = now[TIMESTEP] if distance == "timestep" else now[STEP]
    counts = torch.stack(
        (
            now[STEP] + 1,
            now[HITS],
            torch.zeros_like(now[RUN]),
            now[ACCUMULATED] + torch.nan_to_num(record, 0.0, 0.0, 0.0),
            now[COMPUTED] + 1,
            position,
        )
    )
    clock[LIVE].copy_(torch.cat((now[:STEP], counts, now[PAST_AT:-1])))


def times(now: Tensor, distance: str) -> Times:
    """Where this step stands, for a forecaster."""
    position = now[TIMESTEP] if distance == "timestep" else now[STEP]
    return Times(position, tuple(now[PAST_AT + i] for i in range(PAST)), now[COMPUTED])


def log_step(log: Tensor, now: Tensor, hit: float, record: Tensor) -> None:
    """Write whether this step was a hit, and its diff, at the step's place in `log` [2, capacity]."""
    place = now[STEP].to(torch.int64).clamp(max=log.shape[1] - 1).reshape(1)
    entry = torch.stack((torch.full_like(record, hit), record)).reshape(2, 1)
    log.index_copy_(1, place, entry)
