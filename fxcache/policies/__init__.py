"""Policies: how a step is found to be a hit.

Each is a frozen dataclass of pure functions, from how far a signal moved to a number that has to be below the
threshold; it names the signal, and the `insert_cache_check` pass puts only that into the graph. A new policy
is one file here and one line in `POLICIES`: those that a model may be given. `Follow` is no such.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from .base import Decision, Policy, Progress, Seen, progress
from .budget import Budget
from .dbcache import DBCache
from .easycache import EasyCache
from .fixed_interval import FixedInterval
from .follow import Follow
from .forecast_error import ForecastError
from .growing_window import GrowingWindow
from .magcache import MagCache
from .seacache import SeaCache
from .teacache import TeaCache

POLICIES: tuple[type[Policy], ...] = (
    DBCache,
    ForecastError,
    Budget,
    TeaCache,
    EasyCache,
    MagCache,
    SeaCache,
    FixedInterval,
    GrowingWindow,
)


def policy_from_dict(fields: Mapping[str, Any]) -> Policy:
    """The policy that plain values describe: `name`, in small letters, and its fields.

    Raises:
        ConfigError: no such policy, or a field's value cannot work. UnknownOptionError: no such field.

    Example:
        >>> from fxcache.policies import policy_from_dict
        >>> policy_from_dict({"name": "fixedinterval", "interval": 3})
        FixedInterval(interval=3)
    """
    values = dict(fields)
    name = values.pop("name", None)
    for kind in POLICIES:
        if name == kind.__name__.lower():
            try:
                return kind(**values)
            except TypeError as error:  # a field is missing that has no default
                raise ConfigError("policy", dict(fields), str(error)) from error
    names = ", ".join(kind.__name__.lower() for kind in POLICIES)
    raise ConfigError("policy", dict(fields), f"'name' must be one of {names}")


def policy_to_dict(policy: Policy) -> dict[str, Any]:
    """Plain values that JSON can hold and `policy_from_dict` reads back: those that are not the defaults.

    Example:
        >>> from fxcache import SeaCache
        >>> from fxcache.policies import policy_to_dict
        >>> policy_to_dict(SeaCache(power=2.0))
        {'name': 'seacache', 'power': 2.0}
    """
    given = {f.name: getattr(policy, f.name) for f in dataclasses.fields(policy)}
    changed = {f.name: given[f.name] for f in dataclasses.fields(policy) if given[f.name] != f.default}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}
    return {"name": type(policy).__name__.lower(), **plain}


__all__ = [
    "POLICIES",
    "Budget",
    "DBCache",
    "Decision",
    "EasyCache",
    "FixedInterval",
    "Follow",
    "ForecastError",
    "GrowingWindow",
    "MagCache",
    "Policy",
    "Progress",
    "SeaCache",
    "Seen",
    "TeaCache",
    "policy_from_dict",
    "policy_to_dict",
    "progress",
]
