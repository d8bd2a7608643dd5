"""What only some of the forms do: a memo that is cleared, weights that move, three kinds of calls a step."""

from __future__ import annotations

import pytest
import torch

import fxcache
from fxcache.errors import CaptureError

from . import comfy, mmdit_skips, swapped, text_memo
from .form import CACHING, EXACT, HITS, alike

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")


def test_text_memo_of_each_sentence() -> None:
    """The memo is a constant of the graph, so the first step of a sentence is captured as the second is."""
    plain, cached = text_memo.FORM.model(), fxcache.transform(text_memo.FORM.model(), EXACT)
    with torch.no_grad():
        for sentence in (1, 2, 1):
            for model in (plain, cached):
                model.clear_cache()  # through the stand-in, too
            for done in (0.0, 0.2, 0.4):
                call = text_memo.call(done, sentence=sentence)
                assert torch.equal(cached(**call), plain(**call))
            assert torch.equal(cached.text_cond, plain.text_cond)
    assert "text_cond" not in cached.__dict__


def test_calls_with_and_without_skipped_layers_take_turns() -> None:
    """Three calls a step: each kind goes on from its own."""
    plain, cached = mmdit_skips.FORM.model(), fxcache.transform(mmdit_skips.FORM.model(), CACHING)
    kinds = {"text": (), "worse": (1, 2)}
    alone = {}
    with torch.no_grad():
        for name, skipped in kinds.items():
            alone[name] = [cached(**mmdit_skips.call(step / 7, skipped)) for step in range(7)]
            cached.reset()
        together = {
            (step, name): cached(**mmdit_skips.call(step / 7, skipped))
            for step in range(7)
            for name, skipped in kinds.items()
        }
        for (step, name), result in together.items():
            assert torch.equal(result, alone[name][step])
            same = torch.equal(result, plain(**mmdit_skips.call(step / 7, kinds[name])))
            assert same is not HITS[step]
    assert [context.hits for context in cached.stats().contexts.values()] == [HITS, HITS]
    assert len(cached.specializations()) == 2


def test_weights_that_are_elsewhere_between_the_calls() -> None:
    plain, model = swapped.FORM.model(), swapped.FORM.model()
    cached = fxcache.transform(model, EXACT)
    swapper = swapped.Swapper(model.blocks)
    with torch.no_grad():
        for config in (EXACT, CACHING):
            cached.configure(config)
            for hit, call in zip(HITS, swapped.FORM.calls(), strict=True):
                swapper.unload_all()
                swapper.load_all()
                assert alike(cached(**call), plain(**call)) is not (hit and config == CACHING)
    assert len(cached.specializations()) == 1


def test_weights_that_the_forward_itself_moves_are_refused_by_name() -> None:
    model = swapped.FORM.model()
    model.enable_block_swap()
    with pytest.raises(CaptureError, match=r"exchanges the data of 'blocks\.0\.mix\.weight'") as error:
        fxcache.transform(model, EXACT, example_inputs=swapped.call(0.0))
    assert "hooks on the blocks" in str(error.value)
    with torch.no_grad(), pytest.warns(fxcache.errors.PassthroughWarning):
        uncached = fxcache.transform(model, CACHING, on_unsupported="passthrough")
        assert torch.equal(uncached(**swapped.call(0.0)), swapped.FORM.model()(**swapped.call(0.0)))


def test_weights_that_hooks_on_the_blocks_move() -> None:
    plain, model = swapped.FORM.model(), swapped.FORM.model()
    swapped.swap_by_hooks(model)
    cached = fxcache.transform(model, EXACT)
    with torch.no_grad():
        for config in (EXACT, CACHING):
            cached.configure(config)
            for hit, call in zip(HITS, swapped.FORM.calls(), strict=True):
                assert alike(cached(**call), plain(**call)) is not (hit and config == CACHING)
    assert all(block.mix.weight.isnan().all() for block in model.blocks)


def test_options_are_left_as_the_caller_made_them() -> None:
    """The forward writes to a copy; what it was handed is not written to, or exchanged."""
    cached = fxcache.transform(comfy.FORM.model(), EXACT, **comfy.FORM.options)
    call = comfy.call(0.0)
    options, uuids = call["transformer_options"], call["transformer_options"]["uuids"]
    with torch.no_grad():
        cached(**call)
    assert options["uuids"] is uuids and len(uuids) == 2 and all(u.version == 4 for u in uuids)
