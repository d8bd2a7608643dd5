"""`plan`: a plan without calibration. What is not computed is estimated from what is, by its covariance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..spelling import known_options
from .plan import Plan
from .schedule import budget, computed_steps, even_time

REACH = 0.4  # of a run, in even time: how far apart two outputs are still much alike
JITTER = 1e-4  # variance of what an output has to itself, such as the rounding of its time's embedding
VALUES = 3


@known_options("fxcache.plan()")
def plan(
    steps: int, speedup: float, *, timesteps: Sequence[float] | None = None, feedback: bool = True
) -> Plan:
    """A plan made from two numbers, nothing measured: for the model's output, by a formula.

    The outputs of a denoiser are taken for a smooth random function of time, a little noisy. A step that is
    not computed gets the best linear estimate from the last three that were. The first that is computed
    after such steps pays back their errors: with its own value known, a better estimate of them is.

    Args:
        steps: of a run, 2 to 256.
        speedup: how many times fewer FLOPs of the model; at least two steps are computed.
        timesteps: what the model is given at each step, in its own unit. With them the plan is used for
            such runs only, without for any.
        feedback: whether errors are paid back.

    Raises:
        PlanError: there is no such plan. UnknownOptionError: no such option.

    Example:
        >>> import fxcache
        >>> plan = fxcache.plan(steps=28, speedup=2.5)
        >>> print(plan)
        28 steps, 11 computed: 2.55x fewer FLOPs of the model
        ##..+..+..+...+..+..+..+..+#   # computed  + with feedback  . replayed
        weights: by formula; for any timesteps
    """
    computed = computed_steps(steps, budget(steps, speedup))
    rows = weights(steps, computed, feedback)
    times = None if timesteps is None else tuple(map(float, timesteps))
    return Plan(steps=steps, computed=computed, weights=rows, timesteps=times, method="by formula")


def weights(
    steps: int, computed: Sequence[int], feedback: bool = True, values: int = VALUES
) -> tuple[tuple[float, ...], ...]:
    """The rows [steps][values + 1] of a schedule.

    A row sums to 1: a constant is given as it is.

    Example:
        >>> from fxcache.plans.formula import weights
        >>> rows = weights(4, (0, 1, 3))
        >>> [[round(w, 2) for w in row] for row in rows[1:3]], [round(sum(row), 6) for row in rows]
        ([[1.0, 0.0, 0.0, 0.0], [0.0, 1.68, -0.68, 0.0]], [1.0, 1.0, 1.0, 1.0])
    """
    times = [even_time(step / (steps - 1)) for step in range(steps)]
    rows, past = [], list[int]()
    for step in range(steps):
        known = [times[p] for p in past[:values]]
        if step not in computed:
            rows.append([0.0, *estimate(times[step], known)])
            continue
        row = [1.0] + [0.0] * len(known)
        if feedback and known and step < steps - 1:
            for missed in range(past[0] + 1, step):
                better = estimate(times[missed], [times[step], *known])
                given = [0.0, *estimate(times[missed], known)]
                row = [w + b - g for w, b, g in zip(row, better, given, strict=True)]
        rows.append(row)
        past.insert(0, step)
    return tuple((*row, *[0.0] * (values + 1 - len(row))) for row in rows)


def estimate(time: float, known: Sequence[float]) -> list[float]:
    """Weights of the values at the times `known` in the best linear unbiased estimate of that at `time`.

    Kriging with an unknown line as the mean (a constant, where one value is known): exact for both.

    Example:
        >>> from fxcache.plans.formula import estimate
        >>> estimate(0.3, [0.2]), [round(w, 6) for w in estimate(0.3, [0.2, 0.1])]
        ([1.0], [2.0, -1.0])
    """
    count = len(known)
    trend = min(count, 2)
    system = torch.zeros(count + trend, count + trend, dtype=torch.float64)
    right = torch.zeros(count + trend, dtype=torch.float64)
    for i, own in enumerate(known):
        right[i] = covariance(own - time)
        for j, other in enumerate(known):
            system[i, j] = covariance(own - other) + (JITTER if i == j else 0.0)
        for power in range(trend):
            system[i, count + power] = system[count + power, i] = (own - time) ** power
    right[count] = 1.0
    found: list[float] = torch.linalg.solve(system, right)[:count].tolist()
    return found


def covariance(apart: float) -> float:
    """Of the outputs at two times: the Matern covariance of functions that have two derivatives.

    Example:
        >>> from fxcache.plans.formula import covariance
        >>> covariance(0.0), covariance(0.1) > covariance(0.2)
        (1.0, True)
    """
    r = abs(apart) / REACH
    return (1 + r + r * r / 3) * math.exp(-r)
