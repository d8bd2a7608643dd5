"""Lists of numbers that a policy is given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError
from .base import Policy


def finite_numbers(policy: Policy, field: str) -> tuple[float, ...]:
    """The numbers of a field of `policy`, checked.

    Raises:
        ConfigError: it holds none, or something else.

    Example:
        >>> from fxcache import TeaCache
        >>> from fxcache.policies.finite import finite_numbers
        >>> finite_numbers(TeaCache(coefficients=[1, 0]), "coefficients")
        (1.0, 0.0)
    """
    given: Any = getattr(policy, field)
    listed = isinstance(given, Sequence) and not isinstance(given, str)
    values = list(given) if listed else []
    if not values or not all(is_finite(value) for value in values):
        raise ConfigError("policy", type(policy).__name__, f"its {field} must be one or more finite numbers")
    return tuple(float(value) for value in values)


def is_finite(value: object) -> bool:
    """Whether it is a finite number, and no bool.

    Example:
        >>> from fxcache.policies.finite import is_finite
        >>> is_finite(2), is_finite(float("inf")), is_finite(True)
        (True, False, False)
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
