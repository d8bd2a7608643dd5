"""Exchange the plans of a graph: they are state, and no graph is made anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..config import CacheConfig
from ..errors import ConfigError, PlanError
from ..ops.plan import plan_entries
from ..plans import Plan
from ..plans.plan import as_plans
from .keys import PLAN
from .program import Program


def require_made_for(plans: Sequence[Plan], model: str) -> None:
    """Raise PlanError where a plan names another class of model.

    Example:
        >>> from fxcache import Plan
        >>> from fxcache.ir.replan import require_made_for
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
        >>> from fxcache.ir.replan import replanned
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


def with_plans(program: Program, config: CacheConfig) -> Program:
    """`program` with the plans of `config`, which `replanned` made.

    Example:
        >>> import fxcache
        >>> from fxcache.embedded import example_inputs, load_transformer
        >>> from fxcache.ir.replan import replanned, with_plans
        >>> one = fxcache.Plan(steps=2, computed=(0,), weights=((1, 0), (0, 1)))
        >>> cached = fxcache.transform(load_transformer(), one, example_inputs=example_inputs(batch=1))
        >>> program, two = cached.graph.program, one.replace(weights=((1, 0), (0, 2)))
        >>> changed = with_plans(program, replanned(program.config, two, "FluxTransformer2DModel"))
        >>> {t.name: t.initial[1] for t in changed.state if t.name == "plan_0"}
        {'plan_0': (1e+300, 0.0, 0.0, 2.0)}
    """
    rows = plan_entries(config.plans, config.values)
    state = (dataclasses.replace(t, initial=rows) if PLAN.fullmatch(t.name) else t for t in program.state)
    return program.replace(config=config, state=tuple(state))
