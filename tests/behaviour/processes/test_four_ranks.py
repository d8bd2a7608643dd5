"""Four processes in pairs: each pair decides as one process, with what else the pairs have in common."""

from __future__ import annotations

import pytest

from tests.behaviour.processes.four_ranks import SCENARIOS
from tests.behaviour.processes.launch import Found, launched

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return launched(tmp_path_factory, "four_ranks", 4, list(SCENARIOS))


def test_pairs_with_prompts_of_their_own_do_not_mix(found: Found) -> None:
    results = found.of("pairs_with_prompts_of_their_own")
    for result in results:
        assert result["hits"] == result["hits of one"] and result["off"] < 1e-5
    assert results[0]["diffs"] == results[1]["diffs"] != results[2]["diffs"] == results[3]["diffs"]
    assert "ranks 2, 3 decide together" in results[2]["said"]


def test_parts_of_parts(found: Found) -> None:
    results = found.of("tensors_in_parts")
    for result in results:
        assert result["hits"] == result["hits of one"] and "H" in result["hits"] and result["off"] < 1e-5
        assert result["diffs"] == results[0]["diffs"]
        assert "context parallelism" in result["said"] and "tensor parallelism" in result["said"]


def test_a_vote_of_those_that_have_parts(found: Found) -> None:
    results = found.of("shards_of_pairs")
    assert len({result["hits"] for result in results}) == 1
    for result in results:
        both = zip(result["hits"], result["hits of one"], strict=True)
        assert "context parallelism" in result["said"] and "FSDP" in result["said"]
        assert "tensor parallelism" not in result["said"]  # FSDP's shards are no parts of the sample
        assert result["hits"] == result["hits of one"] or any(a != b for a, b in both)
    assert results[0]["diffs"] == results[1]["diffs"] != results[2]["diffs"] == results[3]["diffs"]
