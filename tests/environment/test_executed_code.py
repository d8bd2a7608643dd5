"""Whose code is noted: the model's, and not that of the libraries below it."""

from __future__ import annotations

import contextlib
import linecache
import textwrap
import traceback
from collections.abc import Iterator

import torch

from fxcache import CacheConfig
from fxcache.environment.executed_code import ExecutedCode


@contextlib.contextmanager
def _of_the_model() -> Iterator[None]:
    yield


def _reads_lines() -> str:
    """Runs code of Python's own library, of torch and of fxcache."""
    with _of_the_model():
        linecache.checkcache(__file__)
        "".join(traceback.format_stack(limit=2))
        CacheConfig.from_string("F1B0_W1M0MC3_T1O1_R0.12")
        torch.nn.functional.layer_norm(torch.ones(2), (2,))
        return textwrap.dedent(" text")


def test_only_what_is_the_models_is_noted() -> None:
    # Python 3.13 keeps some modules in folders of their own, so where one lies does not say where all do.
    code = ExecutedCode()
    with code.watching():
        _reads_lines()
    assert {table["__name__"] for table in code.seen.values()} == {__name__}
    assert {c.co_name for c in code.seen} >= {"_reads_lines", "_of_the_model"}
