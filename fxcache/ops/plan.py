"""A plan in the graph: the row of this step, and what a computed step hands on.

A plan's rows are state, [plans, rows, FIRST + k]: for each step its timestep, what it does, and its weights.
Several plans may lie in it; a trajectory follows the first of those whose timesteps were all its own so far.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..plans import Plan
from ..plans.plan import MAX_STEPS
from .clock import COMPUTED, STEP, TIMESTEP

# Columns. FIRST ...: weights of the last k computed values, the latest first.
TIME, KIND, OWN, FIRST = range(4)
REPLAY, COMPUTE, END = 0.0, 1.0, 2.0  # what a step does; END: it belongs to no plan
ROWS = MAX_STEPS + 1  # the last one ends every plan
PLANS = 4  # that may be given together
ANY = 1e30  # in place of a timestep: any will do; finite, so that JSON can hold it
UNPLANNED = -1.0  # what the record of a step says that belongs to no plan
TOLERANCE = 2.0**-8  # relative, of a timestep: what bfloat16 rounds away


def plan_entries(plans: tuple[Plan, ...], values: int) -> tuple[tuple[float, ...], ...]:
    """The rows of all plans, [PLANS * ROWS][FIRST + values], as the graph's state holds them.

    values: k of the graph, at least that of each plan.

    Example:
        >>> from fxcache import Plan
        >>> from fxcache.ops.plan import plan_entries
        >>> plan = Plan(steps=2, computed=(0,), weights=((1, 0), (0, 1)), timesteps=(1000, 500))
        >>> plan_entries((plan,), values=2)[:3]
        ((1000.0, 1.0, 1.0, 0.0, 0.0), (500.0, 0.0, 0.0, 1.0, 0.0), (0.0, 2.0, 1.0, 0.0, 0.0))
    """
    end = (0.0, END, 1.0, *([0.0] * values))
    rows: list[tuple[float, ...]] = []
    for plan in plans:
        times = plan.timesteps if plan.timesteps is not None else (ANY,) * plan.steps
        computed = set(plan.computed)
        for step, (time, weights) in enumerate(zip(times, plan.weights, strict=True)):
            rest = (0.0,) * (values - plan.values)
            rows.append((time, COMPUTE if step in computed else REPLAY, *weights, *rest))
        rows.extend([end] * (ROWS - plan.steps))
    rows.extend([end] * (ROWS * (PLANS - len(plans))))
    return tuple(rows)


def follow_plan(now: Tensor, fits: Tensor, plan: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a plan says of this step. A step that belongs to none computes, and is not corrected.

    Args:
        now: [WIDTH] float32, the clock's live row at the beginning of the step.
        fits: [plans] float32, which plans the steps of this trajectory belonged to so far; not written.
        plan: [plans, ROWS, FIRST + k] float32.

    Returns:
        hit: 0-dim bool. record: 0-dim float32, NaN, or -1 where the step belongs to no plan. row: that of the
        step, [FIRST + k]. fits: as given, with this step.

    Example:
        >>> import torch
        >>> from fxcache import Plan
        >>> from fxcache.ops.clock import COMPUTED, STEP, TIMESTEP, WIDTH
        >>> from fxcache.ops.plan import PLANS, ROWS, follow_plan, plan_entries
        >>> rows = Plan(steps=2, computed=(0,), weights=((1, 0), (0, 1)), timesteps=(1000, 500))
        >>> plan = torch.tensor(plan_entries((rows,), 1)).reshape(PLANS, ROWS, -1)
        >>> now, fits = torch.zeros(WIDTH), torch.tensor([1.0, 0, 0, 0])
        >>> for time in (500.0, 400.0):  # of step 1: that of the plan, and another
        ...     now[STEP], now[COMPUTED], now[TIMESTEP] = 1, 1, time
        ...     hit, record, row, _ = follow_plan(now, fits, plan)
        ...     print(bool(hit), float(record), row.tolist())
        True nan [500.0, 0.0, 0.0, 1.0]
        False -1.0 [0.0, 2.0, 1.0, 0.0]
    """
    step, time = now[STEP], now[TIMESTEP]
    place = step.to(torch.int64).clamp(max=plan.shape[1] - 1).reshape(1)
    entries = plan.index_select(1, place).squeeze(1)
    expected, kinds = entries[:, TIME], entries[:, KIND]
    near = ((time - expected).abs() <= TOLERANCE * expected.abs()) | (expected == ANY)
    follows = ((fits > 0) | (step == 0)) & near & (kinds != END)
    chosen = follows.to(torch.int64).argmax().reshape(1)
    planned = follows.any()
    row = torch.where(planned, entries.index_select(0, chosen).squeeze(0), plan[-1, -1])
    hit = (row[KIND] == REPLAY) & (now[COMPUTED] > 0)
    record = torch.where(planned, float("nan"), UNPLANNED).to(torch.float32)
    return hit, record, row, follows.to(fits.dtype)


def replay_weights(row: Tensor) -> Tensor:
    """The weights of a step that is not computed, [k], that of the latest value first.

    Those of the step's row; the latest value where the host was mistaken and replays a step to be computed.

    Example:
        >>> import torch
        >>> from fxcache.ops.plan import replay_weights
        >>> replay_weights(torch.tensor([500.0, 0.0, 0.0, 2.0, -1.0]))
        tensor([ 2., -1.])
        >>> replay_weights(torch.tensor([500.0, 1.0, 1.5, -0.5, 0.0]))  # a row of a computed step
        tensor([1., 0.])
    """
    weights = row[FIRST:]
    latest = (torch.arange(weights.shape[0], device=row.device) == 0).to(weights.dtype)
    return torch.where(row[KIND] == REPLAY, weights, latest)


def paid_weights(row: Tensor) -> Tensor:
    """The weights with which a computed step pays back, [k], that of the latest value first.

    Zeros where the row is not of a computed step.

    Example:
        >>> import torch
        >>> from fxcache.ops.plan import paid_weights
        >>> paid_weights(torch.tensor([500.0, 1.0, 1.5, -0.5]))
        tensor([-0.5000])
    """
    return torch.where(row[KIND] == COMPUTE, row[FIRST:], 0.0)


def own_weight(row: Tensor) -> Tensor:
    """The weight of a computed step's own value, 0-dim; 1 where the row is not of a computed step.

    Example:
        >>> import torch
        >>> from fxcache.ops.plan import own_weight
        >>> own_weight(torch.tensor([500.0, 1.0, 1.5, -0.5]))
        tensor(1.5000)
    """
    return torch.where(row[KIND] == COMPUTE, row[OWN], 1.0)
