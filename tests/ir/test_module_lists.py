"""`find_leaves`, `find_lists`, `ways`: what stays whole in a capture, however a model holds its blocks."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from torch import nn

from fxcache.ir.module_lists import USUAL, Way, find_leaves, find_lists, is_small, ways


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)


class Model(nn.Module):
    def __init__(self, **parts: object) -> None:
        super().__init__()
        self.inlet = nn.Linear(8, 8)
        for name, part in parts.items():
            setattr(self, name, part)


def blocks(count: int = 3) -> list[Block]:
    return [Block() for _ in range(count)]


def test_items_of_a_module_list_and_the_rest_are_leaves() -> None:
    model = Model(blocks=nn.ModuleList(blocks()))
    leaves = find_leaves(model)
    assert list(leaves) == ["inlet", "blocks.0", "blocks.1", "blocks.2"]
    assert leaves["blocks.1"] is model.blocks[1]
    assert find_lists(model) == {f"blocks.{i}": "blocks" for i in range(3)}


def test_what_holds_a_list_is_opened() -> None:
    inner = Model(layers=nn.ModuleList(blocks(2)))
    assert list(find_leaves(Model(core=inner))) == ["inlet", "core.inlet", "core.layers.0", "core.layers.1"]


def test_a_module_held_twice_keeps_its_first_name() -> None:
    shared = Block()
    model = Model(first=shared, blocks=nn.ModuleList([shared, Block()]))
    assert list(find_leaves(model)) == ["inlet", "first", "blocks.1"]


def test_lists_in_lists_are_opened_by_depth() -> None:
    stages = nn.ModuleList(Model(layers=nn.ModuleList(blocks(2))) for _ in range(2))
    model = Model(stages=stages)
    assert list(find_leaves(model)) == ["inlet", "stages.0", "stages.1"]
    deeper = find_leaves(model, Way(depth=1))
    assert [n for n in deeper if "layers" in n] == [f"stages.{s}.layers.{i}" for s in (0, 1) for i in (0, 1)]


@pytest.mark.parametrize(
    ("held", "paths"),
    [
        (
            {"blocks": nn.ModuleDict({f"b{i}": b for i, b in enumerate(blocks())})},
            ["blocks.b0", "blocks.b1", "blocks.b2"],
        ),
        ({"blocks": nn.Sequential(*blocks())}, ["blocks.0", "blocks.1", "blocks.2"]),
        ({"blocks": nn.Sequential(OrderedDict(a=Block(), b=Block()))}, ["blocks.a", "blocks.b"]),
        ({f"block{i}": b for i, b in enumerate(blocks())}, ["block0", "block1", "block2"]),
        ({"blocks": nn.ModuleList(nn.ModuleDict({"b": b}) for b in blocks(2))}, ["blocks.0.b", "blocks.1.b"]),
    ],
)
def test_other_collections_in_a_wide_way(held: dict[str, object], paths: list[str]) -> None:
    model = Model(**held)
    assert [n for n in find_leaves(model, Way(wide=True)) if n != "inlet"] == paths
    assert set(find_lists(model)) >= set(paths)


def test_a_plain_list_of_modules() -> None:
    model = Model()
    model.__dict__["hidden"] = blocks(2)
    leaves = find_leaves(model, Way(wide=True))
    held = [leaf for leaf in leaves.values() if isinstance(leaf, Block)]
    assert held == model.hidden
    assert ways(model)[0].wide


def test_opened_modules_are_replaced_by_their_children() -> None:
    model = Model(wrapper=Model(part=Block()), blocks=nn.ModuleList(blocks(2)))
    leaves = find_leaves(model, USUAL, frozenset({"wrapper"}))
    assert "wrapper" not in leaves and {"wrapper.inlet", "wrapper.part"} <= leaves.keys()


def test_module_lists_come_first_unless_something_heavier_is_there() -> None:
    lists = Model(blocks=nn.ModuleList(blocks()))
    assert ways(lists)[0] == USUAL
    heavier = Model(heads=nn.ModuleList([nn.Linear(8, 1)]), blocks=nn.Sequential(*blocks(6)))
    assert ways(heavier)[0].wide
    assert any(way.by_class for way in ways(lists))


def test_names_that_generated_code_cannot_spell() -> None:
    model = Model(blocks=nn.ModuleDict({"a-b": Block(), "class": Block()}))
    leaves = find_leaves(model, Way(wide=True))
    found = [name for name, leaf in leaves.items() if isinstance(leaf, Block)]
    assert len(set(found)) == 2
    assert all(part.isidentifier() or part.isdigit() for name in found for part in name.split("."))


def test_torchs_own_layers_are_small_and_its_encoder_blocks_are_not() -> None:
    assert is_small(nn.Linear(1, 1)) and is_small(nn.LayerNorm(1))
    assert not is_small(Block()) and not is_small(nn.TransformerEncoderLayer(8, 2))
