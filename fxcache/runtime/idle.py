"""Why a run had no hit: what to tell somebody who waits for one."""

from __future__ import annotations

from ..config import CacheConfig
from .stats import ContextStats

LEAST_STEPS = 10  # of a run that should have had one; also of calls that each began a run
LONE = (
    f"each of the last {LEAST_STEPS} calls began a run of its own. If they were steps of one run: what "
    "conditions it must be the same tensors, or equal ones, in all steps, and its timestep must move"
)


def why_idle(stats: ContextStats, config: CacheConfig) -> str | None:
    """The reason, in words; None where there was a hit, where the run was short, or nobody asked for hits.

    stats: of the run. config: the settings that it had.

    Example:
        >>> from fxcache import CacheConfig, ContextStats
        >>> from fxcache.runtime.idle import why_idle
        >>> from fxcache.runtime.stats import SegmentStats
        >>> diffs = {step: 0.2 + 0.01 * step for step in range(4, 28)}
        >>> stats = ContextStats((SegmentStats((False,) * 28, diffs),), None, None, 0)
        >>> why_idle(stats, CacheConfig(max_warmup_steps=4))
        'its 24 residual diffs had P25 0.2975, P50 0.3550, P75 0.4125, P90 0.4470, and a hit needs one ...'
        >>> why_idle(ContextStats((SegmentStats((False,) * 10, {}),), None, None, 0), CacheConfig())
        'its limits let no step be a hit: max_warmup_steps=8'
    """
    if stats.steps < LEAST_STEPS or any(any(s.hits) for s in stats.segments) or not config.enabled:
        return None
    if stats.follows is not None:
        return (
            f"it follows {stats.follows!r}, which had no hit at a step with the same sample and time. That "
            "one must be called first, in the same thread"
        )
    if config.plans:
        return "its timesteps belong to none of the plans" if stats.unplanned else None
    if config.residual_diff_threshold == 0 and not config.static:
        return None
    diffs = len(stats.residual_diffs)
    if not diffs:
        return f"its limits let no step be a hit: {_limits(config)}"
    shown = ", ".join(f"P{p} {value:.4f}" for p, value in stats.diff_quantiles.items()) or "no finite value"
    threshold = f"a hit needs one below residual_diff_threshold={config.residual_diff_threshold:g}"
    return f"its {diffs} residual diffs had {shown}, and {threshold}"


def _limits(config: CacheConfig) -> str:
    limits = {
        "max_warmup_steps": config.max_warmup_steps or None,
        "steps_mask": config.steps_mask,
        "last_compute_steps": config.last_compute_steps or None,
        "start_percent": config.start_percent or None,
        "end_percent": None if config.end_percent == 1 else config.end_percent,
    }
    found = (f"{n}={v if not isinstance(v, tuple) else ''.join(map(str, v))}" for n, v in limits.items() if v)
    return ", ".join(found) or "no step was compared"
