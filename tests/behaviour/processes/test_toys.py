"""Three processes that hold unequal parts of a sample, or a sample each: they decide as one, or by a vote."""

from __future__ import annotations

from typing import Any

import pytest

from tests.behaviour.processes.launch import Found, launched
from tests.behaviour.processes.toys import LATER, SCENARIOS, SOON

LONG = ["more_policies", "one_context_follows", "one_rank_stops"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return launched(tmp_path_factory, "toys", 3, [name for name in SCENARIOS if name not in LONG])


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return launched(tmp_path_factory, "toys", 3, LONG)


def test_parts_decide_as_one_process(found: Found) -> None:
    results = found.of("as_one_process")
    for result in results:
        assert result["hits"] == result["hits of one"] and "H" in result["hits"]
        assert result["off"] < 1e-5 and result["uncached off"] < 1e-5
        assert result["diffs"] == pytest.approx(result["diffs of one"], abs=1e-6)
        assert result["diffs"] == results[0]["diffs"]  # to the last bit
        assert "ranks 0, 1, 2 decide together, by sums" in result["said"]
        assert "gather_shares(" in result["graph"] and "near_together(" in result["graph"]
    assert len({result["hits alone"] for result in results}) > 1  # each by itself, they would wait for ever


def decides_as_one(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result["hits"] == result["hits of one"] and "H" in result["hits"]
        assert result["off"] < 1e-4
        together, alone = result["diffs"]
        assert together == pytest.approx(alone, rel=1e-4)
        assert together == results[0]["diffs"][0]


@pytest.mark.parametrize("policy", SOON)
def test_a_policy_decides_as_in_one_process(found: Found, policy: str) -> None:
    decides_as_one([result[policy] for result in found.of("policies")])


@pytest.mark.full
@pytest.mark.parametrize("policy", LATER)
def test_another_policy_decides_as_in_one_process(later: Found, policy: str) -> None:
    decides_as_one([result[policy] for result in later.of("more_policies")])


@pytest.mark.full
def test_a_follower_follows_on_all_ranks(later: Found) -> None:
    result = later.same_of("one_context_follows")
    assert result["cond"] == ["..HH.HH.HH"] * 2 and len(set(result["uncond"])) == 1
    assert "H" in result["uncond"][0]


def test_a_policy_that_needs_the_whole_sample_is_refused(found: Found) -> None:
    for result in found.of("policies"):
        assert "looks at the whole sample" in result["seacache"]


def test_what_fails_on_one_rank_fails_on_all_at_once(found: Found) -> None:
    results = found.of("one_rank_fails")
    for rank, result in enumerate(results):
        for attempt in ("raise first", "raise second"):
            kind, message = result[attempt]
            assert kind == ("CaptureError" if rank == 1 else "PeersError")
            assert "this rank cannot be traced" in message or "rank 1 cannot" in message
        assert result["passthrough first"] == result["passthrough second"] == 0.0
        assert result["raise took"] < 60  # not the group's timeout


def test_what_fails_later_on_one_rank_fails_on_all_and_they_go_on_together(found: Found) -> None:
    for rank, result in enumerate(found.of("one_rank_fails_later")):
        assert [failure[0] for failure in result["raise"]] == [3, 4]
        for _, kind, message in result["raise"]:
            assert kind == ("CaptureError" if rank == 1 else "PeersError")
            assert "other processes have a part in it" in message
        assert result["raise off"] == [0.0] * 8
        assert "passthrough" not in result and result["passthrough off"] == [0.0] * 10
        assert max(result["raise took"], result["passthrough took"]) < 60  # not the group's timeout


@pytest.mark.full
def test_a_rank_that_stops_stops_all(later: Found) -> None:
    for rank, result in enumerate(later.of("one_rank_stops")):
        last = rank == 2
        kind, message = result["another cache"]
        assert kind == ("AlreadyCachedError" if last else "PeerFailedError") and "_is_cached" in message
        assert result["afterwards"] == result["one context"] == ["ran"]
        kind, message = result["an argument short"]
        assert kind == "PeersError" and "rank 2 cannot: ArgumentsError" in message
        assert result["all of them"][0] == "TypeError"  # the model's own
        kind, _ = result["two contexts"]
        assert kind == ("TooManyContextsError" if last else "PeerFailedError")
        kind, message = result["not all pass through"]
        assert kind == "PeerFailedError" and "rank 2 is not to pass through" in message


def test_ranks_that_differ_are_told_so(found: Found) -> None:
    for result in found.of("ranks_differ"):
        assert "rank 1 has the settings F1B0_W2M0MC2_T0O1_R1.1" in result["settings"]
        assert "rank 1 has the fn_compute_blocks 2, rank 0 1" in result["blocks"]
        assert "rank 1 runs with gradients, rank 0 runs cached" in result["gradients"]
        assert "rank 1 runs uncached, rank 0 runs cached" in result["switched off"]
        assert result["then"] == "..HH.HH.HH"
        assert result["settings of a context"] == "."  # each step begins anew; nothing waits


def test_an_error_amid_a_step_leaves_ranks_that_begin_anew_together(found: Found) -> None:
    for rank, result in enumerate(found.of("an_error_amid_a_step")):
        failed = ["this rank fails"] if rank == 1 else ["ran"]
        assert result["outcomes"] == ["ran"] * 4 + failed + ["ran"] * 5
        assert result["hits"] == "..HH."  # steps 5 to 9, as a run of their own
        assert result["then"] == "..HH.HH.HH"


def test_ranks_with_a_sample_each_vote(found: Found) -> None:
    results = found.of("a_sample_each")
    assert len({result["hits"] for result in results}) == 1 and "H" in results[0]["hits"]
    assert len({result["hits alone"] for result in results}) > 1
    for result in results:
        assert "decide together, by a vote" in result["said"]
        assert result["off"] < 1e-5


def test_collectives_of_which_nothing_is_known_are_warned_of_once(found: Found) -> None:
    told = found.same_of("told_of_nobody")
    assert len(told["auto"]) == 1 and "transform(process_group=...)" in told["auto"][0]
    assert told["none"] == []


def test_what_is_no_group_is_refused_and_so_is_a_package(found: Found) -> None:
    refused = found.same_of("refused")
    assert "a process group of torch.distributed or a DeviceMesh" in refused["7"]
    assert "process_group='all'" in refused["all"]
    assert "several processes share its forward" in refused["export"]
