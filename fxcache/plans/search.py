"""The schedules that a fit likes best: computed steps are moved one at a time, as long as that helps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

Schedule = tuple[int, ...]
REACH = 2  # how far a step is moved at once


def search(
    start: Schedule,
    score: Callable[[Schedule], float],
    fixed: Collection[int],
    keep: int = 1,
    rounds: int = 30,
) -> tuple[Schedule, ...]:
    """The best schedules that single moves lead to from `start`.

    Args:
        score: of a schedule; higher is better.
        fixed: computed steps that stay. Others stay between the first and the last of them.
        keep: how many are wanted.
        rounds: how many moves at most; each tries all and takes the best.

    Returns:
        The best first; each ascending, as many steps as `start` has.

    Example:
        >>> from fxcache.plans.search import search
        >>> search((0, 1, 2, 9), lambda s: -abs(s[1] - 4) - abs(s[2] - 6), fixed=(0, 9))
        ((0, 4, 6, 9),)
    """
    best, known = start, {start: score(start)}
    for _ in range(rounds):
        for schedule in moves(best, fixed):
            if schedule not in known:
                known[schedule] = score(schedule)
        found = max(moves(best, fixed), key=lambda s: known[s], default=best)
        if known[found] <= known[best]:
            break
        best = found
    return tuple(sorted(known, key=lambda s: known[s], reverse=True)[:keep])


def moves(schedule: Schedule, fixed: Collection[int]) -> Iterator[Schedule]:
    """The schedules of which one computed step, not among `fixed`, is one or two steps elsewhere.

    Example:
        >>> from fxcache.plans.search import moves
        >>> list(moves((0, 2, 5), fixed=(0, 5)))
        [(0, 1, 5), (0, 3, 5), (0, 4, 5)]
    """
    low, high = min(fixed), max(fixed)
    for place in schedule:
        if place in fixed:
            continue
        for by in range(-REACH, REACH + 1):
            new = place + by
            if low < new < high and new not in schedule:
                yield tuple(sorted({*schedule, new} - {place}))
