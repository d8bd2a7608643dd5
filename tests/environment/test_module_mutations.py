"""`WriteWatch` and `with_effects`: what glue sets before leaves run, and what it leaves written."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from fxcache.environment.module_mutations import UnrepeatableEffect, WriteWatch, with_effects


class Leaf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0
        self.options = {"gain": 1.0}

    def forward(self, x: Any) -> Any:
        return x * self.scale * self.options["gain"]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.leaves = nn.ModuleList(Leaf() for _ in range(2))
        self.count = 0
        self.memo: dict[str, Any] = {}


def watched() -> tuple[Any, WriteWatch]:
    model = Model()
    return model, WriteWatch(model, {f"leaves.{i}": leaf for i, leaf in enumerate(model.leaves)})


def test_what_is_set_on_a_leaf_while_it_runs_is_an_effect() -> None:
    model, watch = watched()
    leaf = model.leaves[0]
    leaf.scale = 2.0
    watch.called("leaves.0", leaf)
    watch.ran(leaf)
    leaf.scale = 1.0
    assert watch.finished() == ()
    (effect,) = watch.effects
    assert (effect.place.named(effect.key), effect.before, effect.during) == ("leaves.0.scale", 1.0, 2.0)


def test_an_entry_of_a_leafs_dictionary_is_an_effect() -> None:
    model, watch = watched()
    model.leaves[1].options["gain"] = 3.0
    watch.called("leaves.1", model.leaves[1])
    watch.ran(model.leaves[1])
    assert [e.during for e in watch.effects] == [3.0]
    (left,) = watch.finished()
    assert left.name == "leaves.1.options['gain']" and left.value == 3.0


def test_what_a_leaf_writes_is_its_own_affair() -> None:
    model, watch = watched()
    watch.called("leaves.0", model.leaves[0])
    model.leaves[0].scale = 5.0
    model.count = 7
    watch.ran(model.leaves[0])
    assert watch.finished() == () and watch.effects == ()


def test_what_the_glue_leaves_written() -> None:
    model, watch = watched()
    model.count += 1
    model.memo["a"] = "b"
    model.last = 3
    watch.called("leaves.0", model.leaves[0])
    watch.ran(model.leaves[0])
    assert {(w.name, w.value) for w in watch.finished()} == {
        ("Model.count", 1),
        ("Model.memo['a']", "b"),
        ("Model.last", 3),
    }
    assert watch.effects == ()


def test_two_values_in_one_call_cannot_be_repeated() -> None:
    model, watch = watched()
    leaf = model.leaves[0]
    leaf.scale = 2.0
    watch.called("leaves.0", leaf)
    watch.ran(leaf)
    leaf.scale = 3.0
    with pytest.raises(UnrepeatableEffect, match=r"leaves\.0\.scale' to several values"):
        watch.called("leaves.0", leaf)


@pytest.mark.parametrize(
    ("set_on", "what"),
    [(lambda leaf: setattr(leaf, "new", 1), "adds"), (lambda leaf: setattr(leaf, "scale", []), "list")],
)
def test_what_cannot_be_set_from_outside_is_refused(set_on: Any, what: str) -> None:
    model, watch = watched()
    set_on(model.leaves[0])
    with pytest.raises(UnrepeatableEffect, match=what):
        watch.called("leaves.0", model.leaves[0])


def test_effects_are_in_force_while_the_graph_runs_and_gone_afterwards() -> None:
    model, watch = watched()
    leaf = model.leaves[0]
    leaf.scale = 2.0
    watch.called("leaves.0", leaf)
    leaf.scale = 1.0

    def run(fail: bool) -> float:
        if fail:
            raise ZeroDivisionError
        return leaf.scale

    assert with_effects(run, ()) is run
    running = with_effects(run, watch.effects)
    assert running(False) == 2.0 and leaf.scale == 1.0
    with pytest.raises(ZeroDivisionError):
        running(True)
    assert leaf.scale == 1.0
