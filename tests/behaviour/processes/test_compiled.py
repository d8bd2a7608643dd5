"""Compiled, with collectives around and inside of the conditional."""

from __future__ import annotations

import pytest

from tests.behaviour.processes.launch import Found, launched

MODES = ["fused", "single", "staged"]
pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return launched(tmp_path_factory, "context_parallel", 2, MODES)


@pytest.mark.parametrize("mode", MODES)
def test_compiled(found: Found, mode: str) -> None:
    for result in found.of(mode):
        assert result["hits"] == result["expected"] == "..HH."
        assert result["off"] < 1e-5
