"""What a config says that is no part of the graph, but state: one graph serves every setting of it."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Sequence

from ..config import CacheConfig
from ..errors import ConfigError, GraphSettingError, PlanError
from ..ops.knobs import computing_row, knob_row
from ..ops.plan import plan_entries
from ..plans import Plan
from ..plans.plan import as_plans
from .keys import DIGEST, POLICY, SETTINGS
from .state import StateTensor

# Fields that the graph is made of. k, how many values are remembered, follows from the forecaster.
IN_GRAPH = (
    "fn_compute_blocks",
    "bn_compute_blocks",
    "level",
    "forecaster",
    "policy",
    "feedback",
    "batch",
    "history_dtype",
    "history_offload",
    "signal_stride",
)
DEFAULT = CacheConfig()
HISTORY = ("history_dtype", "history_offload")  # of these, those that hold with plans, too
WAY_OUT = "Give this config to fxcache.transform(), or to fxcache.export()."


@functools.lru_cache(maxsize=64)
def settings_rows(config: CacheConfig) -> tuple[tuple[float, ...], ...]:
    """What the state tensor `knobs_i` of a graph holds, or `plan_i` where it follows plans.

    What `policy_i` holds are the policy's own `numbers`.

    Example:
        >>> from fxcache import CacheConfig
        >>> from fxcache.ir.settings import settings_rows
        >>> settings_rows(CacheConfig(max_cached_steps=9, residual_diff_threshold=0.5))[0][:3]
        (0.5, 9.0, 1e+30)
    """
    if config.plans:
        return plan_entries(config.plans if config.enabled else (), config.values)
    if not config.enabled:
        return (computing_row(),)
    row = knob_row(
        threshold=config.residual_diff_threshold,
        warmup=config.max_warmup_steps,
        interval=config.warmup_interval,
        max_cached=config.max_cached_steps,
        max_continuous=config.max_continuous_cached_steps,
        max_accumulated=config.max_accumulated_residual_diff,
        mask=config.steps_mask,
        static=config.static,
        steps=config.steps,
        last=config.last_compute_steps,
        start=config.start_percent,
        end=config.end_percent,
    )
    return (row,)


def set_by(tensor: StateTensor, config: CacheConfig) -> StateTensor:
    """A state tensor of a graph, with what `config` says in place of what it begins with.

    Example:
        >>> import torch
        >>> from fxcache import CacheConfig
        >>> from fxcache.ir.settings import set_by
        >>> from fxcache.ir.state import StateTensor
        >>> knobs = StateTensor("knobs_0", (1028,), torch.float32, torch.device("cpu"))
        >>> set_by(knobs, CacheConfig(residual_diff_threshold=0.25)).allocate({})[0]
        tensor(0.2500)
    """
    if not SETTINGS.fullmatch(tensor.name):
        return tensor
    return dataclasses.replace(tensor, initial=initial_rows(tensor.name, config))


def initial_rows(name: str, config: CacheConfig) -> tuple[tuple[float, ...], ...]:
    """What the state tensor `name`, one of those that settings make, holds.

    Example:
        >>> from fxcache import CacheConfig, MagCache
        >>> from fxcache.ir.settings import initial_rows
        >>> config = CacheConfig(fn_compute_blocks=0, policy=MagCache(ratios=(1.0, 0.5)))
        >>> initial_rows("policy_0", config)[0][:3]
        (1.0, 0.5, 1.0)
    """
    if DIGEST.fullmatch(name):
        return ((digest(config),),)
    return (config.policy.numbers(),) if POLICY.fullmatch(name) else settings_rows(config)


@functools.lru_cache(maxsize=64)
def digest(config: CacheConfig) -> float:
    """A whole number that stands for the settings that are state, as large as a float32 holds exactly.

    Example:
        >>> from fxcache import CacheConfig
        >>> from fxcache.ir.settings import digest
        >>> digest(CacheConfig()) == digest(CacheConfig(residual_diff_threshold=0.5))
        False
    """
    said = repr((settings_rows(config), config.policy.numbers()))
    return float(zlib.crc32(said.encode()) & 0xFFFFFF)


def same_graph(one: CacheConfig, other: CacheConfig) -> bool:
    """Whether one graph serves both.

    Example:
        >>> from fxcache import CacheConfig
        >>> from fxcache.ir.settings import same_graph
        >>> config = CacheConfig(fn_compute_blocks=4)
        >>> same_graph(config, config.replace(residual_diff_threshold=0.2)), same_graph(config, CacheConfig())
        (True, False)
    """
    if one.values != other.values or [p.level for p in one.plans[:1]] != [p.level for p in other.plans[:1]]:
        return False
    return all(_in_graph(one, name) == _in_graph(other, name) for name in IN_GRAPH)


def _in_graph(config: CacheConfig, name: str) -> object:
    return config.policy.graph() if name == "policy" else getattr(config, name)


def reconfigured(config: CacheConfig, wanted: CacheConfig, model: str) -> CacheConfig:
    """The config of a graph that was made for `config`, and is to do as `wanted` says.

    model: name of the class that plans are for.

    Raises:
        GraphSettingError: `wanted` needs another graph. PlanError: likewise, of plans.

    Example:
        >>> from fxcache import CacheConfig
        >>> from fxcache.ir.settings import reconfigured
        >>> config = CacheConfig.from_string("F8B0_W4M0MC4_T1O1_R0.2")
        >>> str(reconfigured(config, config.replace(max_warmup_steps=2), "FluxTransformer2DModel"))
        'F8B0_W2M0MC4_T1O1_R0.2'
        >>> reconfigured(config, CacheConfig(), "FluxTransformer2DModel")
        Traceback (most recent call last):
        fxcache.errors.GraphSettingError: CacheConfig.forecaster = None: is part of the graph, ...
    """
    if not wanted.enabled:
        return config.replace(enabled=False)
    if not config.enabled:
        config = config.replace(enabled=True)
    if wanted.plans:
        said = [name for name in HISTORY if getattr(wanted, name) != getattr(DEFAULT, name)]
        _require_in_graph(config, wanted, said)  # a plan itself says nothing of them
        return replanned(config, wanted.plans, model)
    if config.plans:
        raise GraphSettingError("plans", (), f"and this graph follows plans. {WAY_OUT}")
    _require_in_graph(config, wanted, IN_GRAPH)
    return wanted


def _require_in_graph(config: CacheConfig, wanted: CacheConfig, names: Sequence[str]) -> None:
    for name in names:
        if _in_graph(config, name) != _in_graph(wanted, name):
            there, given = getattr(config, name), getattr(wanted, name)
            raise GraphSettingError(
                name, given, f"is part of the graph, and this one was made with {there!r}. {WAY_OUT}"
            )


def require_made_for(plans: Sequence[Plan], model: str) -> None:
    """Raise PlanError where a plan names another class of model.

    Example:
        >>> from fxcache import Plan
        >>> from fxcache.ir.settings import require_made_for
        >>> plan = Plan(steps=1, computed=(0,), weights=((1, 0),), model="SD3Transformer2DModel")
        >>> require_made_for([plan], "FluxTransformer2DModel")
        Traceback (most recent call last):
        fxcache.errors.PlanError: this plan was made for SD3Transformer2DModel, not for ...
    """
    for plan in plans:
        if plan.model not in (None, model):
            raise PlanError(f"this plan was made for {plan.model}, not for {model}")


def replanned(config: CacheConfig, plans: Plan | Sequence[Plan], model: str) -> CacheConfig:
    """`config` with other plans, for the same graph.

    model: name of the class that they are for.

    Raises:
        PlanError: the graph was not made for such plans.

    Example:
        >>> from fxcache import CacheConfig, Plan
        >>> from fxcache.ir.settings import replanned
        >>> rows = ((1, 0, 0), (1, 0, 0), (0, 2, -1))
        >>> config = CacheConfig.from_plans(Plan(steps=3, computed=(0, 1), weights=rows))
        >>> reuse = Plan(steps=2, computed=(0,), weights=((1, 0), (0, 1)))
        >>> replanned(config, reuse, "FluxTransformer2DModel").plans[0].weights[1]
        (0.0, 1.0, 0.0)
    """
    if not config.plans:
        raise PlanError("this graph follows no plan", "Give one to fxcache.transform() first.")
    given = as_plans(plans)
    require_made_for(given, model)
    most = max(plan.values for plan in given)
    if most > config.values:
        what = f"this plan makes a step of {most} values, and this graph remembers {config.values}"
        raise PlanError(what, "Transform, or export, with the plan that has the most.")
    if {plan.level for plan in given} != {config.plans[0].level}:
        what = f"this graph caches the {config.plans[0].level}, and this plan the {given[0].level}"
        raise PlanError(what, "Transform, or export, with this plan.")
    try:
        return config.replace(plans=tuple(plan.padded(config.values) for plan in given))
    except ConfigError as error:
        raise PlanError(str(error), "Transform, or export, with this plan.") from error
