"""The committed table covers every case and says what running says."""

from __future__ import annotations

import pytest

from tests.behaviour.zoo import ALL_CASES, ZooCase, find
from tests.behaviour.zoo.table import INTRODUCTION, TABLE, describe
from tests.behaviour.zoo.tiers import FAST, REFUSED, over

COLUMNS = [c.strip() for c in INTRODUCTION.splitlines()[-2].strip("|").split("|")]


def _rows() -> dict[str, dict[str, str]]:
    rows: dict[str, dict[str, str]] = {}
    for line in TABLE.read_text().splitlines():
        cells = [c.strip() for c in line.strip("|").split(" | ")]
        if len(cells) == len(COLUMNS):
            rows[cells[0]] = dict(zip(COLUMNS, cells, strict=True))
    return rows


def test_the_table_has_every_case_and_no_other() -> None:
    assert set(_rows()) - {"case", "---"} == {case.name for case in ALL_CASES}


def test_no_case_is_wrong_in_the_table() -> None:
    rows = _rows()
    wrong = [n for n, r in rows.items() if "DIFFERENT" in r.values()]
    assert not wrong
    assert {n for n, r in rows.items() if r["via"] == "refused"} == set(REFUSED)


def _same(case: ZooCase) -> None:
    row = _rows()[case.name]
    found = describe(case)
    assert {name: row[name] for name in found} == found, "run `python -m tests.behaviour.zoo.table`"


@pytest.mark.parametrize("name", FAST[1:3])
def test_the_table_says_what_running_says(name: str) -> None:
    _same(find(name))


@pytest.mark.full
@over(ALL_CASES, but=tuple(REFUSED))
def test_the_table_says_what_running_says_for_every_case(case: ZooCase) -> None:
    _same(case)
