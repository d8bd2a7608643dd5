"""Every form against its plain model: equal with nothing cached, hits where expected, and explained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fxcache
from tests.sweep import sweep

from . import comfy, dit_cfg, mmdit_skips, native_flux, nested, swapped, text_memo, uvit, wan
from .form import CACHING, EXACT, HITS, Form, alike

FORMS = {
    "native Flux": native_flux.FORM,
    "Wan": wan.FORM,
    "MMDiT": mmdit_skips.FORM,
    "MMDiT that skips": mmdit_skips.SKIPPING,
    "U-ViT": uvit.FORM,
    "U-ViT without checkpoints": uvit.PLAIN,
    "U-ViT, blocks named": uvit.NAMED,
    "ComfyUI": comfy.FORM,
    "DiT with guidance": dit_cfg.FORM,
    "F5-TTS": text_memo.FORM,
    "nested": nested.FORM,
    "swapped": swapped.FORM,
}
FEW = ["native Flux", "Wan", "U-ViT, blocks named", "ComfyUI", "DiT with guidance", "F5-TTS", "nested"]
USUAL = pytest.mark.filterwarnings("ignore:In CPU autocast")  # Wan asks for what CPUs cannot


def run(form: Form, model: Any, calls: list[dict[str, Any]] | None = None) -> list[Any]:
    with torch.no_grad():
        return [getattr(model, form.method)(**call) for call in calls or form.calls()]


@USUAL
@pytest.mark.parametrize("name", sweep(FORMS, FEW))
def test_equal_uncached_and_cached_where_expected(name: str) -> None:
    form = FORMS[name]
    plain, cached = form.model(), fxcache.transform(form.model(), EXACT, **form.options)
    for ours, theirs in zip(run(form, cached), run(form, plain), strict=True):
        assert alike(ours, theirs)
    cached.configure(CACHING)
    differ = [not alike(a, b) for a, b in zip(run(form, cached), run(form, plain), strict=True)]
    (context,) = cached.stats().contexts.values()
    assert context.hits == HITS and tuple(differ) == HITS


@USUAL
@pytest.mark.parametrize("name", sweep(FORMS, ["Wan", "ComfyUI"]))
def test_explained(name: str) -> None:
    form = FORMS[name]
    found = fxcache.explain(form.model(), CACHING, form.call(0.5), **form.options)
    assert form.captured in found.captured and found.blocks == form.blocks
    assert set(form.free) <= set(found.free_sizes)
    assert bool(form.unless) == bool(found.unless) and form.unless in found.unless
    if form.unless:
        assert "Values of a tensor are read there" in found.unless and found.unless in str(found)
