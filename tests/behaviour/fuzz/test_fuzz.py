"""Random models: equal to the plain model or refused, whatever they are put together from.

`pytest -m fuzz` runs 2,000 of them, in about 25 minutes on two cores; `FXCACHE_FUZZ_MODELS` sets another
number. A failure prints a `Spec`, which `tests.behaviour.fuzz.oracle.check` runs again.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, note, seed, settings

from tests.sweep import sweep

from .calls import steps
from .models import build
from .oracle import check, compare_plain
from .pythonstate import python_state
from .spec import AXES, Spec, canonical, specs

MODELS = int(os.environ.get("FXCACHE_FUZZ_MODELS", "2000"))
SHARDS = 8
PLAIN = Spec()


def _run(count: int, number: int, tally: Counter[str]) -> None:
    @seed(number)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(specs())
    def one(spec: Spec) -> None:
        note(f"run it again: tests.behaviour.fuzz.oracle.check({spec})")
        check(spec, tally)

    one()


def _report(tally: Counter[str]) -> str:
    return "\n".join(f"{number:6} {what}" for what, number in tally.most_common())


@pytest.mark.fuzz
@pytest.mark.parametrize("shard", range(SHARDS))
def test_many_random_models_are_equal_or_refused(shard: int, capsys: pytest.CaptureFixture[str]) -> None:
    tally: Counter[str] = Counter()
    try:
        _run(max(1, MODELS // SHARDS), 1 + shard, tally)
    finally:
        with capsys.disabled():
            print(f"\nshard {shard}\n{_report(tally)}")


@pytest.mark.parametrize("axis", AXES)
def test_every_word_makes_a_model_that_runs_and_that_its_copy_equals(axis: str) -> None:
    """Of the generator: what it compares is deterministic, and runs without fxcache."""
    for word in AXES[axis]:
        for streams in AXES["streams"]:
            given_words = {
                "streams": streams,
                "context": "autocast",
                "option": "dict",
                "outside": "attribute",
            }
            spec = canonical(dataclasses.replace(PLAIN, **{**given_words, axis: word}, change_at=(1,)))
            compare_plain(spec)


def test_the_state_that_is_compared_holds_memos_counters_and_what_the_caller_passed() -> None:
    spec = Spec(state="memo_dict", option="six_levels")
    model, step = build(spec), next(steps(spec))
    before = python_state((model, step.arguments))
    model(**step.arguments)
    after = python_state((model, step.arguments))
    assert set(after) - set(before) == {"model[0].memos[5]"}
    step.arguments["options"]["a"]["b"][0]["c"]["d"][0] = 2.0
    assert python_state((model, step.arguments)) != after


@pytest.mark.parametrize("count", sweep((4, 30), (4,)))
def test_random_models_are_equal_or_refused(count: int) -> None:
    tally: Counter[str] = Counter()
    _run(count, 0, tally)
    assert tally["uncached, equal"] > count // 3 and tally["hits"] > count // 3, _report(tally)
