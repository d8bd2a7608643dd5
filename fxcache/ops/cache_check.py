"""The decision of one step: hit or compute (DBCache's rules; the order is that of the docs)."""

from __future__ import annotations

import torch
from torch import Tensor

from .clock import ACCUMULATED, COMPUTED, HITS, RUN, STEP

COMPUTE, MAY_CACHE, PAST_END = 1.0, 0.0, 2.0  # entries of a steps mask, and of what follows it


def cache_check(
    now: Tensor,
    diff: Tensor | None,
    mask: Tensor | None = None,
    *,
    threshold: float,
    warmup: int = 0,
    interval: int = 1,
    max_cached: int | None = None,
    max_continuous: int | None = None,
    max_accumulated: float | None = None,
    static: bool = False,
) -> tuple[Tensor, Tensor]:
    """Whether this step may replay the cache: DBCache's rules, as cache-dit has them.

    A NaN in `diff` computes, as does a step before which none was computed.

    Args:
        now: [WIDTH] float64, the clock's live row at the beginning of the step.
        diff: 0-dim float32, relative change of the front residual, or None where the mask decides alone.
        mask: [steps + 1] float64, one entry a step and `PAST_END`, or None.
        threshold: a hit needs a diff below it. warmup, interval, max_cached, max_continuous: in steps.
        max_accumulated: sum of diffs from which on no step is a hit. All as in `CacheConfig`.
        static: whether a mask's 0 is a hit with no check.

    Returns:
        hit: 0-dim bool. record: 0-dim float32, the diff where it was what decided, else NaN.

    Example:
        >>> import torch
        >>> from fxcache.ops.cache_check import cache_check
        >>> from fxcache.ops.clock import COMPUTED, STEP, WIDTH
        >>> now = torch.zeros(WIDTH, dtype=torch.float64)
        >>> now[STEP] = now[COMPUTED] = 4  # step 4; steps 0 to 3 were computed
        >>> cache_check(now, torch.tensor(0.1), threshold=0.12, warmup=4)
        (tensor(True), tensor(0.1000))
        >>> cache_check(now, torch.tensor(0.1), threshold=0.12, warmup=5)
        (tensor(False), tensor(nan))
    """
    numbers = now.unbind(0)
    step = numbers[STEP]
    computed = numbers[COMPUTED] > 0
    allowed = computed
    if warmup > 0:
        allowed = allowed & ((step >= warmup) if interval == 1 else _past_warmup(step, warmup, interval))
    for limit, column in ((max_cached, HITS), (max_continuous, RUN), (max_accumulated, ACCUMULATED)):
        if limit is not None:
            allowed = allowed & (numbers[column] < limit)
    forced = None
    if mask is not None:
        place = step.to(torch.int64).clamp(max=mask.shape[0] - 1)
        entry = mask.index_select(0, place.reshape(1)).reshape(())
        if static:
            forced = computed & (entry == MAY_CACHE)
            allowed = allowed & (entry == PAST_END)
        else:
            allowed = allowed & (entry != COMPUTE)
    if diff is None:
        unknown = torch.full_like(step, float("nan"), dtype=torch.float32)
        return (forced if forced is not None else torch.zeros_like(computed)), unknown
    hit = allowed & (diff < threshold)  # a NaN compares false: it computes
    return (hit if forced is None else hit | forced), torch.where(allowed, diff, float("nan"))


def _past_warmup(step: Tensor, warmup: int, interval: int) -> Tensor:
    return (step >= warmup) | (step % interval != 0)


def mask_entries(mask: tuple[int, ...]) -> tuple[float, ...]:
    """A steps mask (1 compute, 0 may cache) as the numbers that `cache_check` reads.

    Example:
        >>> from fxcache.ops.cache_check import mask_entries
        >>> mask_entries((1, 0, 1))
        (1.0, 0.0, 1.0, 2.0)
    """
    return (*(COMPUTE if m else MAY_CACHE for m in mask), PAST_END)


def effective_warmup(warmup: int, mask: tuple[int, ...] | None) -> int:
    """The warmup in steps; with a mask, at most the mask's leading run of computed steps.

    Example:
        >>> from fxcache.ops.cache_check import effective_warmup
        >>> effective_warmup(8, None), effective_warmup(8, (1, 1, 0, 1))
        (8, 2)
    """
    if mask is None:
        return warmup
    leading = mask.index(0) if 0 in mask else len(mask)
    return min(warmup, leading)
