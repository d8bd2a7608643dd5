"""The clock: the numbers that a trajectory remembers, as one small float32 tensor.

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

BEFORE_ANY = 1e30  # a timestep that every other is below; finite, so that JSON can hold it


def initial_clock() -> tuple[tuple[float, ...], ...]:
    """Rows of a clock before the first step: [4, WIDTH], which the state tensor `clock_0` begins with.

    Example:
        >>> import torch
        >>> from fxcache.ops.clock import LIVE, STEP, initial_clock
        >>> clock = torch.tensor(initial_clock())
        >>> clock.shape, clock[LIVE, STEP]
        (torch.Size([4, 11]), tensor(0.))
    """
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
        clock: [4, WIDTH] float32; not written.
        timestep: any shape and number type, in the model's own unit; its mean counts.
        near: 0-dim bool, whether the sample may follow the last one; None for a model without a sample.

    Returns:
        [WIDTH] float32.

    Example:
        >>> import torch
        >>> from fxcache.ops.clock import STEP, begin_step, commit_miss, initial_clock
        >>> clock, near = torch.tensor(initial_clock()), torch.tensor(True)
        >>> for timestep in (900.0, 600.0, 300.0, 900.0):  # the last begins a new trajectory
        ...     now = begin_step(clock, torch.tensor([timestep]), near)
        ...     print(int(now[STEP]), end=" ")
        ...     commit_miss(clock, now, torch.tensor(0.1), "step")
        0 1 2 0
    """
    live, start, risen, _ = clock.unbind(0)
    last, direction, step = live[: STEP + 1].unbind(0)  # columns TIMESTEP, DIRECTION, STEP
    time = timestep.mean(dtype=torch.float32)
    # CUDA has read memory that is not pinned when such a copy returns; what others do is not known.
    waitless = time.device.type == "cpu" and clock.device.type == "cuda"
    time = time.to(clock.device, non_blocking=waitless)
    move = time - last
    if near is not None:
        move = move * near  # a leap is as if time stood still
    restart = move * direction <= 0
    second_falling = step * direction == -1
    begin = torch.where(second_falling & (move > 0), risen, start)
    begun = torch.where(restart, begin, live)
    return torch.cat((time.reshape(1), begun[1:]))


def continue_step(clock: Tensor, near: Tensor | None) -> Tensor:
    """As `begin_step`, for a model without a timestep: there the sample alone tells.

    Example:
        >>> import torch
        >>> from fxcache.ops.clock import LIVE, STEP, continue_step, initial_clock
        >>> clock = torch.tensor(initial_clock())
        >>> clock[LIVE, STEP] = 7
        >>> [int(continue_step(clock, near=torch.tensor(n))[STEP]) for n in (True, False)]
        [7, 0]
    """
    if near is None:
        return clock[LIVE].clone()
    return torch.where(near, clock[LIVE], clock[START])


def commit_hit(clock: Tensor, now: Tensor, record: Tensor, accumulate: bool) -> None:
    """Count a hit, in place.

    Args:
        clock: [4, WIDTH] float32; its live row is written.
        now: [WIDTH] float32, what the step began with.
        record: 0-dim float32, the diff that decided, or NaN.
        accumulate: whether to add up the diffs.

    Example:
        >>> import torch
        >>> from fxcache.ops.clock import HITS, LIVE, RUN, STEP, commit_hit, initial_clock
        >>> clock = torch.tensor(initial_clock())
        >>> commit_hit(clock, clock[LIVE].clone(), torch.tensor(0.1), accumulate=False)
        >>> clock[LIVE, [STEP, HITS, RUN]].tolist()
        [1.0, 1.0, 1.0]
    """
    advanced = now + clock[HIT]
    if accumulate:
        advanced[ACCUMULATED] += torch.nan_to_num(record, 0.0, 0.0, 0.0)
    clock[LIVE].copy_(advanced)


def commit_miss(clock: Tensor, now: Tensor, record: Tensor, distance: str) -> None:
    """Count a computed step, in place, and remember where it was. It ends a run of hits.

    Args:
        clock: [4, WIDTH] float32; its live row is written.
        now: [WIDTH] float32, what the step began with.
        record: 0-dim float32, the diff that decided, or NaN.
        distance: what positions count, "step" or "timestep".

    Example:
        >>> import torch
        >>> from fxcache.ops.clock import COMPUTED, LIVE, PAST_AT, STEP, commit_miss, initial_clock
        >>> clock = torch.tensor(initial_clock())
        >>> clock[LIVE, STEP] = 5
        >>> commit_miss(clock, clock[LIVE].clone(), torch.tensor(float("nan")), "step")
        >>> clock[LIVE, [STEP, COMPUTED, PAST_AT]].tolist()
        [6.0, 1.0, 5.0]
    """
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
    """Where this step stands, for a forecaster.

    Args:
        now: [WIDTH] float32, what the step began with.
        distance: the unit of positions, "step" or "timestep".

    Returns:
        0-dim float32 tensors: the position of this step, those of the last 4 computed ones, and how many
        were computed.

    Example:
        >>> import torch
        >>> from fxcache.ops.clock import COMPUTED, PAST_AT, STEP, WIDTH, times
        >>> now = torch.zeros(WIDTH)
        >>> now[STEP], now[COMPUTED], now[PAST_AT] = 5, 2, 3
        >>> when = times(now, "step")
        >>> when.now.item(), when.past[0].item(), when.computed.item()
        (5.0, 3.0, 2.0)
    """
    position = now[TIMESTEP] if distance == "timestep" else now[STEP]
    return Times(position, tuple(now[PAST_AT + i] for i in range(PAST)), now[COMPUTED])


def computed_steps(now: Tensor) -> Tensor:
    """How many steps of the trajectory were computed before this one: 0-dim float32.

    now: [WIDTH] float32, what the step began with.

    Example:
        >>> import torch
        >>> from fxcache.ops.clock import COMPUTED, WIDTH, computed_steps
        >>> now = torch.zeros(WIDTH)
        >>> now[COMPUTED] = 2
        >>> computed_steps(now)
        tensor(2.)
    """
    return now[COMPUTED]


def run_of_hits(now: Tensor) -> Tensor:
    """How many hits came right before this step: 0-dim float32.

    now: [WIDTH] float32, what the step began with.

    Example:
        >>> import torch
        >>> from fxcache.ops.clock import RUN, WIDTH, run_of_hits
        >>> now = torch.zeros(WIDTH)
        >>> now[RUN] = 3
        >>> run_of_hits(now)
        tensor(3.)
    """
    return now[RUN]


def log_step(log: Tensor, now: Tensor, hit: float, record: Tensor) -> None:
    """Write whether this step was a hit, and its diff, at the step's place in `log`.

    Args:
        log: [2, capacity] float32; written in place. Steps beyond its end share the last place.
        now: [WIDTH] float32, what the step began with.
        hit: 1.0 or 0.0.
        record: 0-dim float32, the diff that decided, or NaN.

    Example:
        >>> import torch
        >>> from fxcache.ops.clock import STEP, WIDTH, log_step
        >>> log, now = torch.zeros(2, 3), torch.zeros(WIDTH)
        >>> now[STEP] = 1
        >>> log_step(log, now, 1.0, torch.tensor(0.25))
        >>> log
        tensor([[0.0000, 1.0000, 0.0000],
                [0.0000, 0.2500, 0.0000]])
    """
    place = now[STEP].to(torch.int64).clamp(max=log.shape[1] - 1).reshape(1)
    entry = torch.stack((torch.full_like(record, hit), record)).reshape(2, 1)
    log.index_copy_(1, place, entry)
