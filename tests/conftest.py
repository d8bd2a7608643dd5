"""Options of the test run."""

from __future__ import annotations

import gc
import os

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--refresh-golden", action="store_true", help="write the golden graphs anew")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # small models: threads cost more than they give
    # So does it to optimize what packages do between their kernels. Read by torch when it first compiles.
    os.environ.setdefault("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O0")


def pytest_collection_finish() -> None:
    gc.set_threshold(10_000, 20, 20)
    freeze()


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None or nextitem.path != item.path:
        freeze()


def freeze() -> None:
    """What imports, and torch in its tables, made so far stays: no collection, and no search for caches,
    need look at it again."""
    gc.collect()
    gc.freeze()
