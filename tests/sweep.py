"""Sweeps: one mechanism over many parameters, of which the default run takes a few."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest


def sweep(values: Iterable[Any], few: Collection[Any], ids: Callable[[Any], str] = str) -> list[Any]:
    """`values` for `parametrize`; all but a `few` of them run with `pytest -m full` only.

    A tuple stands for several parameters.
    """
    values = list(values)
    unknown = [value for value in few if value not in values]
    assert few and not unknown, f"not among the values: {unknown}"
    return [
        pytest.param(
            *(v if isinstance(v, tuple) else (v,)), id=ids(v), marks=() if v in few else pytest.mark.full
        )
        for v in values
    ]
