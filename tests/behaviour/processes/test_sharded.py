"""FSDP2, tensor parallelism and DDP on two processes: they work, and the model itself stays what it was."""

from __future__ import annotations

import diffusers
import pytest

from tests.behaviour.processes.launch import Found, launched

TENSORS = ["tensors_in_parts"] if hasattr(diffusers, "TensorParallelConfig") else []
SOON = ["sharded_blocks", "own_prompts", "flattened_parameters", *TENSORS]
LATER = ["root_parameters", "refused_and_whole", "feed_forwards_in_parts", "replicas", "signals_of_the_root"]


@pytest.fixture(scope="module")
def soon(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return launched(tmp_path_factory, "sharded", 2, SOON)


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return launched(tmp_path_factory, "sharded", 2, LATER)


@pytest.mark.skipif(not TENSORS, reason="diffusers has tensor parallelism since 0.42")
def test_tensors_in_parts_by_diffusers(soon: Found) -> None:
    for result in soon.of("tensors_in_parts"):
        assert result["never off"] == result["original off"] == 0.0
        assert result["off"] < 1e-5 and result["hits"] == result["hits of one"] == "..HH"
        assert "by sums over their parts of the sample (tensor parallelism)" in result["said"]


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


def test_what_flattens_parameters_is_refused(soon: Found) -> None:
    result = soon.same_of("flattened_parameters")
    kind, message = result["raised"]
    assert kind == "CaptureError" and "use fully_shard (FSDP2)" in message
    assert result["off"] == 0.0 and result["plain off"] < 1e-6


@pytest.mark.full
def test_tensors_in_parts_by_torch_before_and_after(later: Found) -> None:
    for result in later.of("feed_forwards_in_parts"):
        for when in ("early", "late"):
            assert result[f"{when} hits"] == result["hits of one"] and "H" in result["hits of one"]
            assert result[f"{when} off"] < 1e-5 and "(tensor parallelism)" in result[f"{when} said"]


@pytest.mark.full
def test_replicas_cache_as_they_like(later: Found) -> None:
    for result in later.of("replicas"):
        assert result["around off"] == result["inside off"] == result["original off"] == 0.0
        assert result["hits"] == result["inside hits"] == "..HH.HH."
        assert "decide together" not in result["said"]


@pytest.mark.full
@pytest.mark.parametrize("policy", ["teacache", "easycache"])
def test_a_signal_of_the_root_is_voted_on(later: Found, policy: str) -> None:
    first, second = (result[policy] for result in later.of("signals_of_the_root"))
    assert first["hits"] == second["hits"] and "H" in first["hits"]
    for result in (first, second):
        assert result["off"] == result["original off"] == 0.0 and "H" in result["hits alone"]


@pytest.mark.full
def test_a_signal_of_a_block_in_shards_is_refused(later: Found) -> None:
    message = later.same_of("signals_of_the_root")["first block sharded"]
    assert "looks into block 'blocks.0', which FSDP shards" in message


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
