"""Which cases the fast tests run, and which are refused."""

from __future__ import annotations

import pytest

from fxcache.errors import BlockMutationError, CaptureError, FxcacheError

from .case import ZooCase

FAST = (
    "FluxTransformer2DModel:dev+controlnet",  # two lists, glue that adds
    "ChromaTransformer2DModel",  # dual to single with a cat
    "SD3Transformer2DModel",  # the last block drops a stream
    "HunyuanDiT2DModel",  # long skips
    "Lumina2Transformer2DModel",  # real tensors, values guarded
    "WanTransformer3DModel",
)
"""Structurally different cases, a few seconds each."""

REFUSED: dict[str, tuple[type[FxcacheError], str]] = {
    "WanAnimate2Transformer3DModel:extract": (BlockMutationError, "writes to an object passed to it"),
    "AnyFlowFARTransformer3DModel": (CaptureError, "given a BlockMask that the forward makes"),
}
"""Cases that cannot be cached: the error and the reason that it gives."""

UNCOMPILABLE = {
    "HiDreamImageTransformer2DModel": "in moe_infer",
    "HunyuanImageTransformer2DModel:byt5": "scaled_dot_product_attention",
    "WanAnimate2Transformer3DModel": "in rope_apply",
}
"""Cases whose blocks read values of tensors or compare sizes that depend on data, which `torch.compile` takes
only with graph breaks, cached or not: where that is."""


def over(cases: tuple[ZooCase, ...], but: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """Parametrise `case` over the cases, without those named in `but`."""
    chosen = [case for case in cases if case.name not in but]
    return pytest.mark.parametrize("case", chosen, ids=[case.name for case in chosen])
