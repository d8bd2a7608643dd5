"""What TeaCache looks at is what its makers take by hand: the first norm, modulated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache import CacheConfig, TeaCache
from fxcache.errors import ConfigError
from tests.behaviour.zoo import ALL_CASES, ZooCase, find
from tests.behaviour.zoo.tiers import REFUSED, over

CONFIG = CacheConfig(
    fn_compute_blocks=0, max_warmup_steps=1, residual_diff_threshold=1e9, policy=TeaCache(), level="output"
)


def norm_by_hand(name: str, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The first lines of the forward of each class of block, as TeaCache's code for it has them."""
    hidden = kwargs.get("hidden_states", args[0] if args else None)
    if name == "WanTransformer3DModel":
        temb = args[2] if len(args) > 2 else kwargs["temb"]
        shift, scale, *_ = (block.scale_shift_table + temb.float()).chunk(6, dim=1)
        return block.norm1(hidden.float()) * (1 + scale) + shift
    if name == "PixArtTransformer2DModel":
        table = block.scale_shift_table[None] + kwargs["timestep"].reshape(hidden.shape[0], 6, -1)
        shift, scale, *_ = table.chunk(6, dim=1)
        return block.norm1(hidden) * (1 + scale) + shift
    return block.norm1(hidden, emb=kwargs["temb"])[0]


@pytest.mark.parametrize(
    "name",
    ["FluxTransformer2DModel", "SD3Transformer2DModel", "WanTransformer3DModel", "PixArtTransformer2DModel"],
)
def test_it_is_the_norm_that_its_makers_take(name: str) -> None:
    model, inputs = find(name).build()
    cached = fxcache.transform(model, CONFIG, example_inputs={**inputs, "return_dict": False})
    block = next(m for n, m in model.named_modules() if n == cached.graph.program.chain[0].name)
    taken: list[Tensor] = []

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        taken.append(norm_by_hand(name, module, args, kwargs))

    handle = block.register_forward_pre_hook(look, with_kwargs=True)
    found: list[Tensor] = []
    norm = cached.graph.program.stages["front"].graph.get_submodule("_first_norm_0")
    norm.register_forward_hook(lambda module, args, output: found.append(output))
    with torch.no_grad():
        model(**inputs)
        handle.remove()
        cached(**{**inputs, "return_dict": False})
    (got,) = found
    torch.testing.assert_close(got.reshape(taken[0].shape), taken[0].to(got.dtype), rtol=1e-5, atol=1e-5)


def test_a_block_without_a_projection_is_refused() -> None:
    class Block(nn.Module):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return hidden_states + hidden_states.sin()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Block() for _ in range(3))

        def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
            for block in self.blocks:
                hidden_states = block(hidden_states) * timestep
            return hidden_states

    cached = fxcache.transform(Model(), CONFIG)
    with pytest.raises(ConfigError, match=r"finds no projection in block 'blocks\.0'"):
        cached(torch.randn(1, 4, 8), torch.ones(1))


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:_compile flag:DeprecationWarning")  # the class's own
@over(ALL_CASES, but=tuple(REFUSED))
def test_every_class_has_one_and_runs_every_step(case: ZooCase) -> None:
    model, inputs = case.build()
    config = CONFIG.replace(residual_diff_threshold=0.0)
    cached = fxcache.transform(model, config, example_inputs=inputs)
    assert "previous_0" in [s.name for s in cached.graph.program.state]
