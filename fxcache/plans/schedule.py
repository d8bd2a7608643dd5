"""Which steps to compute, as a closed form: closer together where a run begins and where it ends."""

from __future__ import annotations

import math

from ..errors import PlanError
from .plan import MAX_STEPS

BEND = 0.6
TIE = 1e-9  # halves are rounded up on every machine
LEAST = 2  # computed steps: the first and the last


def budget(steps: int, speedup: float) -> int:
    """How many of `steps` may be computed so that the others save `speedup` times the FLOPs; at least 2.

    Raises:
        PlanError: fewer than 2 steps, more than a plan holds, or a speedup below 1.

    Example:
        >>> from fxcache.plans.schedule import budget
        >>> budget(28, 2.5), budget(28, 1), budget(28, 100)
        (11, 28, 2)
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or not LEAST <= steps <= MAX_STEPS:
        raise PlanError(
            f"a plan of {steps!r} steps cannot skip any", f"Give a number of steps, {LEAST} to {MAX_STEPS}."
        )
    if not (isinstance(speedup, (int, float)) and math.isfinite(speedup) and speedup >= 1):
        raise PlanError(f"speedup={speedup!r} is none", "Give a number of at least 1, such as 2.5.")
    return max(math.floor(steps / speedup + 1e-9), LEAST)


def computed_steps(steps: int, count: int, bend: float = BEND) -> tuple[int, ...]:
    """`count` of `steps` steps, the first and the last among them.

    Args:
        bend: 0 spreads them evenly, 1 as the cosine of evenly spread angles: dense at both ends, where the
            outputs of a denoiser change most.

    Returns:
        Ascending, from 0 to `steps - 1`.

    Raises:
        PlanError: `count` is not 2 to `steps`.

    Example:
        >>> from fxcache.plans.schedule import computed_steps
        >>> computed_steps(28, 11)
        (0, 1, 4, 7, 10, 14, 17, 20, 23, 26, 27)
        >>> computed_steps(5, 5)
        (0, 1, 2, 3, 4)
    """
    if not LEAST <= count <= steps:
        raise PlanError(f"{count} of {steps} steps cannot be computed", f"Give {LEAST} to {steps}.")
    places = [(steps - 1) * place(q / (count - 1), bend) for q in range(count)]
    return _apart([math.floor(p + 0.5 + TIE) for p in places], steps)


def place(even: float, bend: float = BEND) -> float:
    """Where in a run, 0 to 1, the share `even` of its computed steps is done.

    Example:
        >>> from fxcache.plans.schedule import place
        >>> place(0.0), place(0.1) < 0.1, place(0.9) > 0.9, place(1.0)
        (0.0, True, True, 1.0)
    """
    return bend * (1 - math.cos(math.pi * even)) / 2 + (1 - bend) * even


def even_time(share: float, bend: float = BEND) -> float:
    """The inverse of `place`: time in which computed steps are spread evenly, and outputs change evenly.

    Example:
        >>> from fxcache.plans.schedule import even_time, place
        >>> round(even_time(place(0.3)), 9)
        0.3
    """
    low, high = 0.0, 1.0
    for _ in range(50):  # place() rises
        middle = (low + high) / 2
        low, high = (middle, high) if place(middle, bend) < share else (low, middle)
    return (low + high) / 2


def _apart(places: list[int], steps: int) -> tuple[int, ...]:
    """Ascending whole numbers, each one step: those that fell together are pushed apart."""
    for q in range(1, len(places)):
        places[q] = max(places[q], places[q - 1] + 1)
    for q, found in enumerate(places):
        places[q] = min(found, steps - len(places) + q)
    return tuple(places)
