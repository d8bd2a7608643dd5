"""What a plan is, and that nothing else is taken for one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxcache import Plan
from fxcache.errors import FxcacheError, PlanError, UnknownOptionError
from fxcache.plans.plan import Quality
from tests.plans.strategies import plans

ROWS = ((1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 2.0, -1.0), (1.5, -1.0, 0.5))
PLAN = Plan(steps=4, computed=(0, 1, 3), weights=ROWS, timesteps=(1000, 750, 500, 250))


@given(plans())
def test_a_plan_survives_json(plan: Plan) -> None:
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_a_file_holds_the_plan_readably(tmp_path: Path) -> None:
    plan = PLAN.replace(
        model="A", scheduler="B", method="least squares", runs=8, quality=Quality(50.5, 40.25, 4)
    )
    file = plan.save(tmp_path / "plan.json")
    assert Plan.load(file) == plan
    assert len(file.read_text().splitlines()) < 30  # a line for each field and row


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 0}, "1 to 256"),
        ({"steps": 257}, "1 to 256"),
        ({"steps": 4.0}, "whole number"),
        ({"steps": True}, "whole number"),
        ({"steps": 5}, "as many rows"),
        ({"weights": ROWS[:3]}, "as many rows"),
        ({"weights": (*ROWS[:3], (1.0, 0.0))}, "differ in length"),
        ({"weights": ((1,), (1,), (1,), (1,))}, "2 to 5 weights"),
        ({"weights": (*ROWS[:3], (float("nan"), 0, 0))}, "not finite"),
        ({"weights": (*ROWS[:3], ("x", 0, 0))}, "no plan"),
        ({"weights": ((1, 0.5, 0), *ROWS[1:])}, "more values than were computed"),
        ({"weights": (*ROWS[:2], (0, 0, 0), ROWS[3])}, "made of nothing"),
        ({"weights": (*ROWS[:2], (1, 0, 0), ROWS[3])}, "value of their own"),
        ({"computed": (0, 1, 2, 3)}, "value of their own"),
        ({"computed": (1, 3)}, "step 0"),
        ({"computed": (0, 3, 1)}, "ascend"),
        ({"computed": (0, 1, 3, 4)}, "step 4"),
        ({"computed": ()}, "step 0"),
        ({"timesteps": (1, 2)}, "as many timesteps"),
        ({"timesteps": (4, 3, 3, 1)}, "one way"),
        ({"timesteps": (4, 3, float("inf"), 1)}, "not finite"),
        ({"level": "blocks"}, "level must be"),
        ({"fn_compute_blocks": 1}, "Fn = Bn = 0"),
        ({"level": "residual", "bn_compute_blocks": -1}, "negative"),
        ({"model": 3}, "a name"),
        ({"quality": 30.0}, "a Quality"),
    ],
)
def test_what_is_no_plan_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        PLAN.replace(**change)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(UnknownOptionError, match="did you mean 'computed'"):
        Plan(steps=1, compute=(0,), weights=((1, 0),))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "text", ["", "{", "[1, 2]", "null", '{"format": 1}', '{"weights": [], "format": "x"}']
)
def test_a_foreign_or_truncated_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PlanError, match=r"plan\.json"):
        Plan.load(tmp_path / "plan.json")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = PLAN.save(tmp_path / "plan.json").read_bytes()
    for length in range(len(whole.rstrip())):
        (tmp_path / "cut.json").write_bytes(whole[:length])
        with pytest.raises(PlanError):
            Plan.load(tmp_path / "cut.json")


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(PlanError):
        Plan.load(tmp_path / "plan.json")


def test_a_newer_file_says_to_upgrade() -> None:
    with pytest.raises(PlanError, match="Upgrade"):
        Plan.from_dict({**PLAN.to_dict(), "format": 2})


@given(
    st.sampled_from([*PLAN.to_dict()]),
    st.sampled_from([None, 3, -1, 0.5, True, "x", [], [1], [[1]], [None], {}, {"a": 1}, float("nan")]),
)
def test_whatever_a_file_says_is_a_plan_or_a_plan_error(field: str, value: object) -> None:
    try:
        Plan.from_dict({**PLAN.to_dict(), field: value})
    except FxcacheError as error:
        assert isinstance(error, PlanError)


def test_it_is_drawn_on_one_line() -> None:
    assert PLAN.draw() == "##.+"
    assert "1.33x" in str(PLAN) and "1000 to 250" in str(PLAN)
