"""The decision of one step: hit or compute (DBCache's rules; the order is that of the docs)."""

from __future__ import annotations

import torch
from torch import Tensor

from . import knobs as columns
from .clock import ACCUMULATED, COMPUTED, HITS, STEP


def cache_check(now: Tensor, diff: Tensor | None, knobs: Tensor) -> tuple[Tensor, Tensor]:
    """Whether this step may replay the cache: DBCache's rules, as cache-dit has them.

    A NaN in `diff` computes, as does a step before which none was computed.

    Args:
        now: [clock's WIDTH] float32, the clock's live row at the beginning of the step.
        diff: 0-dim float32, relative change of the front residual, or None where the steps decide alone.
        knobs: [WIDTH] float32, the settings, as `knob_row` makes them.

    Returns:
        hit: 0-dim bool. record: 0-dim float32, the diff where it was what decided, else NaN.

    Example:
        >>> import torch
        >>> from fxcache.ops import clock
        >>> from fxcache.ops.cache_check import cache_check
        >>> from fxcache.ops.knobs import knob_row
        >>> now = torch.zeros(clock.WIDTH)
        >>> now[clock.STEP] = now[clock.COMPUTED] = 4  # step 4; steps 0 to 3 were computed
        >>> for warmup in (4, 5):
        ...     row = knob_row(threshold=0.12, warmup=warmup)
        ...     print(cache_check(now, torch.tensor(0.1), torch.tensor(row)))
        (tensor(True), tensor(0.1000))
        (tensor(False), tensor(nan))
    """
    steps = knobs[columns.STEPS :]
    place = now[STEP].to(torch.int64).clamp(max=columns.LENGTH - 1).reshape(1)
    step = steps.index_select(0, place).reshape(())
    computed = now[COMPUTED] > 0
    replayed = computed & (step == columns.REPLAY)
    if diff is None:
        return replayed, torch.full_like(step, float("nan"), dtype=torch.float32)
    within = (now[HITS : ACCUMULATED + 1] < knobs[columns.MAX_CACHED : columns.STEPS]).all()
    checked = computed & within & (step == columns.CHECK)
    threshold = knobs[columns.THRESHOLD].to(diff.dtype)
    hit = replayed | (checked & (diff < threshold))  # a NaN compares false: it computes
    return hit, torch.where(checked, diff, float("nan"))
