"""`flatten`, `structure_key`, `tensor_names`: calls by their arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fxcache.capture.call_signature import arguments_structure, flatten, structure_key, tensor_names
from fxcache.errors import OpaqueInputError


def bound(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "x": torch.zeros(1, 4, 8),
        "pair": (torch.zeros(2), torch.ones(3)),
        "options": {"mask": torch.zeros(4, dtype=torch.bool), "scale": 2.0},
        "flag": True,
        "scale": 1.0,
        "nothing": None,
    }
    return {**given, **changes}


def test_equal_calls_have_equal_keys_and_hashes() -> None:
    one, other = flatten(bound(), False), flatten(bound(), False)
    assert one.key == other.key and hash(one.key) == hash(other.key)


@pytest.mark.parametrize(
    "changes",
    [
        {"x": torch.zeros(1, 5, 8)},
        {"x": torch.zeros(1, 4, 8, dtype=torch.float64)},
        {"x": torch.zeros(1, 8, 4).transpose(1, 2)},
        {"x": torch.zeros(1, 4, 8, device="meta")},
        {"flag": 1},
        {"flag": False},
        {"scale": 1},
        {"scale": 2.0},
        {"nothing": 0},
        {"pair": [torch.zeros(2), torch.ones(3)]},
        {"pair": (torch.zeros(2), torch.ones(4))},
        {"options": {"mask": torch.zeros(4, dtype=torch.bool), "scale": 3.0}},
        {"options": {"scale": 2.0, "mask": torch.zeros(4, dtype=torch.bool), "more": 1}},
    ],
)
def test_whatever_a_graph_bakes_in_is_in_the_key(changes: dict[str, Any]) -> None:
    assert flatten(bound(**changes), False).key != flatten(bound(), False).key


def test_training_and_settings_in_force_are_in_the_key() -> None:
    key = flatten(bound(), False).key
    assert flatten(bound(), True).key != key
    with torch.autocast("cpu", torch.bfloat16):
        assert flatten(bound(), False).key != key
    with torch.inference_mode():
        assert flatten(bound(), False).key != key


def test_the_structure_key_leaves_sizes_out_and_nothing_else() -> None:
    key = structure_key(flatten(bound(), False).key)
    assert structure_key(flatten(bound(x=torch.zeros(3, 9, 2)), False).key) == key
    assert structure_key(flatten(bound(x=torch.zeros(3, 9)), False).key) != key
    assert structure_key(flatten(bound(scale=2.0), False).key) != key


def test_tensors_and_their_names_are_in_one_order() -> None:
    given = bound()
    names = tensor_names(given)
    assert names == ["x", "pair[0]", "pair[1]", "options['mask']"]
    tensors = flatten(given, False).tensors
    expected = [given["x"], *given["pair"], given["options"]["mask"]]
    assert len(tensors) == 4 and all(a is b for a, b in zip(tensors, expected, strict=True))
    filled = arguments_structure(given).fill(tensors)
    assert list(filled) == list(given) and filled["options"]["mask"] is given["options"]["mask"]
    assert filled["options"]["scale"] == 2.0


def test_objects_that_leaves_may_be_given_are_told() -> None:
    class Options:
        scale = 1

    option = Options()
    call = flatten(bound(options={"o": option, "a": np.ones(2)}), False)
    assert any(o is option for o in call.objects)


def test_what_cannot_be_compared_is_named() -> None:
    with pytest.raises(OpaqueInputError, match="options"):
        flatten(bound(options={"it": iter([1])}), False)
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(OpaqueInputError, match=r"pair.*nested too deeply"):
        flatten(bound(pair=loop), False)
