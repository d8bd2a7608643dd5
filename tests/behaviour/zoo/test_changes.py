"""A changed input never runs a stale graph: whatever changes between two calls, results are the model's.

One transformed model serves all examples, so that every graph made before is there to be wrongly used.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxcache
from fxcache import CachedTransformer
from tests.behaviour.zoo import ALL_CASES, ZooCase, find
from tests.behaviour.zoo.nested import map_tensors, tensors_in
from tests.behaviour.zoo.running import UNCACHED, bit_equal
from tests.behaviour.zoo.tiers import REFUSED, over
from tests.sweep import sweep

READS_VALUES = ("Lumina2Transformer2DModel", "QwenImage21Transformer2DModel", "OmniGenTransformer2DModel")
FAST = (*READS_VALUES, "FluxTransformer2DModel", "QwenImageTransformer2DModel")

KINDS = (
    "values",
    "mask",
    "written",
    "none",
    "constant",
    "dtype",
    "shorter list",
    "longer",
    "shorter",
    "batch",
)


@functools.lru_cache(maxsize=8)
def _pair(name: str) -> tuple[nn.Module, CachedTransformer]:
    model, inputs = find(name).build()
    cached = fxcache.transform(model, UNCACHED)
    with torch.no_grad():
        cached(**inputs)
    return model, cached


def _outcome(model: nn.Module, inputs: dict[str, Any]) -> list[Tensor] | str:
    """What a call returns; the error where the inputs do not fit the model."""
    try:
        with torch.no_grad():
            return tensors_in(model(**inputs))
    except Exception as error:
        return f"raises {error}"


def _check(name: str, inputs: dict[str, Any], what: str) -> bool:
    """Compare; False where the model does not take these inputs."""
    model, cached = _pair(name)
    expected = _outcome(model, inputs)
    found = _outcome(cached, inputs)
    if isinstance(expected, str):
        assert isinstance(found, str), f"{what}: the model refuses it, the transformed one does not"
        return False
    assert not isinstance(found, str), f"{what}: the model takes it, the transformed one {found}"
    assert bit_equal(found, expected), f"{what}: a stale graph ran"
    return True


def _changed(inputs: dict[str, Any], name: str, kind: str, seed: int) -> dict[str, Any] | None:
    """The inputs with one of them changed in this way, or None where that makes no sense."""
    value = inputs[name]
    draw = torch.Generator().manual_seed(seed)
    if kind == "none":
        return {**inputs, name: None}
    if kind == "shorter list":
        usable = isinstance(value, list) and len(value) > 1
        return {**inputs, name: value[:-1]} if usable else None
    if isinstance(value, bool):
        return {**inputs, name: not value} if kind == "constant" and name != "return_dict" else None
    if isinstance(value, (int, float)):
        return {**inputs, name: value + 1} if kind == "constant" else None
    if not tensors_in(value):
        return None
    change = {
        "values": lambda t: _other_values(t, draw),
        "mask": lambda t: _masked(t, draw),
        "written": lambda t: t.copy_(_other_values(t, draw)),
        "dtype": _other_dtype,
        "longer": lambda t: torch.cat([t, t[:, :1]], dim=1) if t.dim() > 1 else t,
        "shorter": lambda t: t[:, :-1] if t.dim() > 1 else t,
        "batch": lambda t: torch.cat([t, t[:1]]) if t.dim() else t,
    }.get(kind)
    return {**inputs, name: map_tensors(change, value)} if change is not None else None


def _other_values(old: Tensor, draw: torch.Generator) -> Tensor:
    if old.is_floating_point():
        return torch.rand(old.shape, generator=draw).to(old.dtype)
    if old.dtype is torch.bool:
        return torch.rand(old.shape, generator=draw) > 0.5
    return old.flatten()[torch.randperm(old.numel(), generator=draw)].view_as(old)


def _masked(old: Tensor, draw: torch.Generator) -> Tensor:
    """The tail of each row set to zero: how masks of prompts differ."""
    new = old.clone()
    if old.dim():
        for row in new.reshape(-1, old.shape[-1]) if new.is_contiguous() else ():
            row[int(torch.randint(1, old.shape[-1] + 1, (), generator=draw)) :] = 0
    return new


def _other_dtype(old: Tensor) -> Tensor:
    if old.is_floating_point():
        return old.double()
    return old.long() if old.dtype in (torch.bool, torch.int32) else old.to(torch.int32)


def _examine(name: str, data: st.DataObject) -> None:
    _, inputs = find(name).build()
    changeable = [n for n, v in inputs.items() if v is not None and not isinstance(v, str)]
    which = data.draw(st.sampled_from(changeable))
    kind = data.draw(st.sampled_from(KINDS))
    seed = data.draw(st.integers(0, 5))
    assert _check(name, inputs, "the inputs as they were")
    changed = _changed(inputs, which, kind, seed)  # "written" writes to the very tensors just used
    if changed is not None:
        _check(name, changed, f"{which}, {kind}, seed {seed}")


EXAMPLES = settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # shrinking would capture again and again
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("name", sweep(FAST, FAST[:1]))
@EXAMPLES
@given(data=st.data())
def test_any_one_changed_input_is_seen(name: str, data: st.DataObject) -> None:
    _examine(name, data)


@pytest.mark.full
@over(ALL_CASES, but=tuple(REFUSED))
def test_any_one_changed_input_is_seen_by_every_case(case: ZooCase) -> None:
    @settings(EXAMPLES, max_examples=25)
    @given(data=st.data())
    def examine(data: st.DataObject) -> None:
        _examine(case.name, data)

    examine()
    _pair.cache_clear()


READ = (
    ("Lumina2Transformer2DModel", "encoder_attention_mask"),
    ("OmniGenTransformer2DModel", "position_ids"),
    ("QwenImage21Transformer2DModel", "img_mask"),
    ("HunyuanVideo15Transformer3DModel", "encoder_attention_mask"),
    ("HunyuanVideo15Transformer3DModel", "image_embeds"),
    ("HunyuanImageTransformer2DModel:byt5", "encoder_attention_mask_2"),
)


@pytest.mark.parametrize("kind", sweep(("values", "mask", "written"), ("mask", "written")))
@pytest.mark.parametrize(("name", "which"), sweep(READ, READ[:1], ids="-".join))
def test_values_that_python_code_reads_are_guarded(name: str, which: str, kind: str) -> None:
    _, inputs = find(name).build()
    assert _check(name, inputs, "the inputs as they were")
    changed = _changed(inputs, which, kind, seed=1)
    assert changed is not None
    assert _check(name, changed, f"{which}, {kind}")
    if which == "image_embeds":  # all zeros means that there is no image
        assert _check(name, {**inputs, which: torch.zeros_like(inputs[which])}, "no image")
