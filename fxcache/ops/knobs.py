"""What a user may set between runs: the limits of the cache and what each step may do, as one row of state.

The graph reads them there, so that one graph, and one package, serves every setting of them.
"""

from __future__ import annotations

from ..errors import ConfigError

# Columns: those of the limits in the order of the clock's HITS, RUN and ACCUMULATED. From STEPS on, what each
# step may do; the steps beyond the last do as the last.
THRESHOLD, MAX_CACHED, MAX_CONTINUOUS, MAX_ACCUMULATED, STEPS = range(5)
LENGTH = 1024  # steps
WIDTH = STEPS + LENGTH
CHECK, COMPUTE, REPLAY = 0.0, 1.0, 2.0  # what a step may do; REPLAY: it is a hit with no check
NO_LIMIT = 1e30  # finite, so that JSON can hold it


def knob_row(
    *,
    threshold: float,
    warmup: int = 0,
    interval: int = 1,
    max_cached: int | None = None,
    max_continuous: int | None = None,
    max_accumulated: float | None = None,
    mask: tuple[int, ...] | None = None,
    static: bool = False,
    steps: int | None = None,
    last: int = 0,
    start: float = 0.0,
    end: float = 1.0,
) -> tuple[float, ...]:
    """The row of these settings, [WIDTH], as the state tensor `knobs_i` holds it.

    threshold: a hit needs a diff below it. warmup, interval, max_cached, max_continuous: in steps.
    max_accumulated: sum of diffs from which on no step is a hit. mask: for each step 1 (compute) or 0 (may
    cache). static: whether its 0 is a hit with no check. steps: of a run, where known; the last of them, and
    those outside of the shares from start to end, compute. All as in `CacheConfig`.

    Raises:
        ConfigError: the mask is for more steps than there is room for.

    Example:
        >>> from fxcache.ops.knobs import COMPUTE, STEPS, knob_row
        >>> row = knob_row(threshold=0.25, warmup=3, max_continuous=2)
        >>> row[:STEPS], row[STEPS : STEPS + 5], COMPUTE
        ((0.25, 1e+30, 2.0, 1e+30), (1.0, 1.0, 1.0, 0.0, 0.0), 1.0)
    """
    if mask is not None and len(mask) > LENGTH:
        raise ConfigError("steps_mask", f"{len(mask)} entries", f"must be for at most {LENGTH} steps")
    limits = (max_cached, max_continuous, max_accumulated)
    warm = effective_warmup(warmup, mask)
    codes = [COMPUTE if step < warm and step % interval == 0 else CHECK for step in range(LENGTH)]
    for step, computes in enumerate(mask or ()):
        if computes:
            codes[step] = COMPUTE
        elif static:
            codes[step] = REPLAY
    if steps is not None and (last or start or end < 1):
        until = min(steps - last, end * steps)
        codes = [code if start * steps <= step < until else COMPUTE for step, code in enumerate(codes)]
    return (float(threshold), *(NO_LIMIT if limit is None else float(limit) for limit in limits), *codes)


def computing_row() -> tuple[float, ...]:
    """The row with which every step computes.

    Example:
        >>> from fxcache.ops.knobs import STEPS, computing_row
        >>> set(computing_row()[STEPS:])
        {1.0}
    """
    return knob_row(threshold=0.0, warmup=LENGTH)


def effective_warmup(warmup: int, mask: tuple[int, ...] | None) -> int:
    """The warmup in steps; with a mask, at most the mask's leading run of computed steps.

    Example:
        >>> from fxcache.ops.knobs import effective_warmup
        >>> effective_warmup(8, None), effective_warmup(8, (1, 1, 0, 1))
        (8, 2)
    """
    if mask is None:
        return warmup
    leading = mask.index(0) if 0 in mask else len(mask)
    return min(warmup, leading)
