"""FSDP2, tensor parallelism and DDP on two processes: they work, and the model itself stays what it was."""

from __future__ import annotations

import pytest

from tests.behaviour.processes.launch import Found, launched

SOON = ["sharded_blocks", "own_prompts"]
LATER = ["root_parameters", "refused_and_whole"]


@pytest.fixture(scope="module")
def soon(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return launched(tmp_path_factory, "sharded", 2, SOON)


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return launched(tmp_path_factory, "sharded", 2, LATER)


def test_a_model_in_shards_is_cached_and_stays_whole(soon: Found) -> None:
    result = soon.same_of("sharded_blocks")
    assert result["off"] == result["original off"] == 0.0
    assert result["hits"] == "..HH.HH."
    assert "by a vote, each with a sample (FSDP)" in result["said"]
    assert "(FSDP)" in result["export"]


def test_ranks_with_prompts_of_their_own_vote(soon: Found) -> None:
    first, second = soon.of("own_prompts")
    assert first["hits"] == second["hits"] and "H" in first["hits"]
    assert first["hits alone"] != second["hits alone"]
    for result in (first, second):
        assert result["off where computed"] < 1e-5 and result["original off"] == 0.0


@pytest.mark.full
def test_parameters_of_the_root(later: Found) -> None:
    for result in later.of("root_parameters"):
        assert result["prepared"] == result["called"] == result["sharded later"] == 0.0
        assert result["prepared graphs"] == result["called graphs"] == 1
        assert result["hits"] == "..HH.HH." and "(FSDP)" in result["said"]


@pytest.mark.full
def test_what_is_refused_leaves_the_model_whole(later: Found) -> None:
    result = later.same_of("refused_and_whole")
    assert "MixedPrecisionPolicy" in result["casts"]
    assert "more than the 4 blocks" in result["blocks"]
    assert "other processes have a part in it" in result["unreadable"]
    assert {value for name, value in result.items() if name.endswith(" off")} == {0.0}
