"""Collected only where torch-tensorrt is installed; without a GPU, behind the shim."""

from __future__ import annotations

import importlib.util
import logging

import pytest

INSTALLED = importlib.util.find_spec("torch_tensorrt") is not None
NEED_IT = ("test_building.py", "test_engines.py", "test_package.py", "test_report.py")
collect_ignore = [] if INSTALLED else list(NEED_IT)


@pytest.fixture(scope="session", autouse=INSTALLED)
def torch_tensorrt() -> None:
    """torch-tensorrt, importable and quiet."""
    from tests.backends.tensorrt import shim

    if shim.needed():
        shim.install()
    logging.getLogger("torch_tensorrt").setLevel(logging.CRITICAL)
