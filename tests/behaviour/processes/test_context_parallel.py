"""diffusers' context parallelism on two processes: the same steps are cached as on one."""

from __future__ import annotations

import pytest

from tests.behaviour.processes.launch import Found, launched

SOON = ["flux_decides_as_one", "times_of_tokens", "uneven_parts", "export_is_refused"]
LATER = [
    "wan_decides_as_one",
    "qwen_decides_as_one",
    "before_and_after",
    "explained",
    "one_rank_fails",
]


@pytest.fixture(scope="module")
def soon(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return launched(tmp_path_factory, "context_parallel", 2, SOON)


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return launched(tmp_path_factory, "context_parallel", 2, LATER)


def decides_as_one(found: Found, scenario: str) -> None:
    first, second = found.of(scenario)
    for result in (first, second):
        assert result["hits"] == result["hits of one"] and "H" in result["hits"]
        assert result["off"] < 1e-6 and result["uncached off"] < 1e-6
        assert result["diffs"] == pytest.approx(result["diffs of one"], abs=1e-6)
        assert "ranks 0, 1 decide together, by sums over their parts" in result["said"]
    assert first["diffs"] == second["diffs"]  # to the last bit
    assert first["diffs alone"] != second["diffs alone"]


def test_flux_decides_as_one_process(soon: Found) -> None:
    decides_as_one(soon, "flux_decides_as_one")


def test_times_of_tokens_are_those_of_all_ranks(soon: Found) -> None:
    result = soon.same_of("times_of_tokens")
    assert result["hits"] == result["hits of one"] == "..HH.HH."
    assert result["off"] < 1e-6


def test_parts_of_unequal_size_by_diffusers_are_refused(soon: Found) -> None:
    result = soon.same_of("uneven_parts")
    assert "other processes have a part in it" in result["raised"]
    assert result["off"] == 0.0


def test_a_package_is_refused(soon: Found) -> None:
    assert "context parallelism" in soon.same_of("export_is_refused")["raised"]


@pytest.mark.full
@pytest.mark.parametrize("model", ["wan", "qwen"])
def test_where_the_first_block_splits_the_signal_is_that_of_one_process(later: Found, model: str) -> None:
    decides_as_one(later, f"{model}_decides_as_one")


@pytest.mark.full
def test_parallelism_may_come_before_or_after(later: Found) -> None:
    for result in later.of("before_and_after"):
        assert result["off"] == [0.0, 0.0] and result["cached off"] == 0.0
        assert result["hits"] == ["..HH.HH."] * 2


@pytest.mark.full
def test_what_is_explained_and_prepared_is_what_runs(later: Found) -> None:
    result = later.same_of("explained")
    assert "ranks 0, 1 decide together" in result["said"] and "[1, 12, 32]" in result["said"]
    assert result["graphs"] == 1 and "gather_shares(" in result["graph"]


@pytest.mark.full
def test_what_fails_on_one_rank_fails_on_both(later: Found) -> None:
    for rank, result in enumerate(later.of("one_rank_fails")):
        assert result["raise"][0] == ("CaptureError" if rank == 1 else "PeersError")
        assert result["passthrough"] == 0.0
