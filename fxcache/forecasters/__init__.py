"""Forecasters: what a hit replays for each cached value.

Each is a frozen dataclass with one pure function, from the positions of the last computed steps to weights of
what the value was there; the `insert_forecast` pass puts it into the graph. A new method is one file here and
one line in `FORECASTERS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from .base import Forecaster, Times
from .hicache import HiCache
from .newton import Newton
from .reuse import Reuse
from .spectrum import Spectrum
from .taylorseer import TaylorSeer

FORECASTERS: tuple[type[Forecaster], ...] = (Reuse, TaylorSeer, Newton, HiCache, Spectrum)


def forecaster_from_dict(fields: Mapping[str, Any]) -> Forecaster:
    """The forecaster that plain values describe: `name`, in small letters, and its fields.

    Raises:
        ConfigError: no such forecaster, or a field's value cannot work. UnknownOptionError: no such field.

    Example:
        >>> from fxcache.forecasters import forecaster_from_dict
        >>> forecaster_from_dict({"name": "taylorseer", "order": 2})
        TaylorSeer(order=2, calibrate='residual', distance='step')
    """
    values = dict(fields)
    name = values.pop("name", None)
    for kind in FORECASTERS:
        if name == kind.__name__.lower():
            return kind(**values)
    names = ", ".join(kind.__name__.lower() for kind in FORECASTERS)
    raise ConfigError("forecaster", dict(fields), f"'name' must be one of {names}")


def forecaster_to_dict(forecaster: Forecaster) -> dict[str, Any]:
    """Plain values that JSON can hold and `forecaster_from_dict` reads back.

    Example:
        >>> from fxcache.forecasters import Reuse, forecaster_to_dict
        >>> forecaster_to_dict(Reuse())
        {'name': 'reuse', 'order': 0, 'calibrate': 'residual', 'distance': 'step'}
    """
    return {"name": type(forecaster).__name__.lower(), **dataclasses.asdict(forecaster)}


__all__ = [
    "FORECASTERS",
    "Forecaster",
    "HiCache",
    "Newton",
    "Reuse",
    "Spectrum",
    "TaylorSeer",
    "Times",
    "forecaster_from_dict",
    "forecaster_to_dict",
]
