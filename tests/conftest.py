"""Options of the test run."""

from __future__ import annotations

import gc

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--refresh-golden", action="store_true", help="write the golden graphs anew")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # small models: threads cost more than they give


def pytest_collection_finish() -> None:
    """What the imports made stays: no collection, and no search for caches, need look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
