"""Names of state, of values that stages hand on, and of stages."""

from __future__ import annotations

from typing import get_args

import pytest

from fxcache.ir.keys import (
    HISTORY,
    RECORD,
    HistoryKey,
    StateKey,
    StateKind,
    ValueKey,
    ValueKind,
    stage_name,
    stage_names,
)
from fxcache.ir.names import RESERVED

KEYS = [StateKey(kind, 3) for kind in get_args(StateKind)]
VALUES = [ValueKey(kind, 3) for kind in get_args(ValueKind)]
STAGES = [stage_name(k, 1, n) for k in ("front", "skip", "compute", "back") for n in (1, 2)]


def test_no_two_have_one_name() -> None:
    names = [key.name for key in (*KEYS, *VALUES, HistoryKey("clock_3"))]
    assert len({*names, *STAGES}) == len(names) + 7  # "back" is the last of any number


@pytest.mark.parametrize("name", [*(k.name for k in (*KEYS, *VALUES, HistoryKey("x"))), *STAGES])
def test_the_model_can_have_none_of_them(name: str) -> None:
    assert RESERVED.fullmatch(name)


def test_histories_and_records_are_told_by_their_names() -> None:
    match = HISTORY.fullmatch(HistoryKey("blocks_7").name)
    assert match is not None and match[1] == "blocks_7"
    assert [k.kind for k in KEYS if RECORD.fullmatch(k.name)] == ["clock", "log"]


def test_stages_of_one_segment_have_no_number() -> None:
    assert stage_names("skip", 1) == ["skip"]
    assert stage_names("skip", 2) == ["skip_0", "skip_1"]
    assert stage_name("back", 2, 2) == "back"
