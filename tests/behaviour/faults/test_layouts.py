"""A stream that comes in laid out otherwise than the blocks return it: what replaces them must still run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxcache

from .base import WIDTH, build, sample

ALWAYS = fxcache.CacheConfig(fn_compute_blocks=2, max_warmup_steps=1, residual_diff_threshold=1e9)
NOTHING = fxcache.CacheConfig(fn_compute_blocks=2, max_warmup_steps=0, residual_diff_threshold=0.0)


class Patched(nn.Module):
    """Its embedding is a convolution's output, transposed; the blocks' outputs are dense."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv1d(WIDTH, WIDTH, 1)
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def between(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1).sin().reshape(x.shape)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        x = self.patch(x.transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            x = self.between(block(x))
        return x


class Strided(Patched):
    """Between its blocks it reads by strides."""

    def between(self, x: Tensor) -> Tensor:
        return torch.as_strided(x, x.shape, x.stride()).sin()


@pytest.mark.parametrize("kind", [Patched, Strided])
def test_glue_between_blocks_takes_a_transposed_stream(kind: type[Patched]) -> None:
    model = build(kind)
    for config in (NOTHING, ALWAYS):
        cached = fxcache.transform(model, config)
        with torch.no_grad():
            first, *rest = sample(batch=2)
            assert torch.equal(cached(*first), model(*first))
            for call in rest:
                x = model.patch(call[0].transpose(1, 2)).transpose(1, 2)
                front = model.blocks[1](model.between(model.blocks[0](x)))
                skeleton = model.between(model.between(front))
                if config is ALWAYS:
                    want = model.between(skeleton + residual(model, first[0]))
                    torch.testing.assert_close(cached(*call), want)
                else:
                    assert torch.equal(cached(*call), model(*call))


def residual(model: Patched, x: Tensor) -> Tensor:
    """What the middle adds to the skeleton at the step that is computed."""
    x = model.patch(x.transpose(1, 2)).transpose(1, 2)
    front = model.blocks[1](model.between(model.blocks[0](x)))
    last = model.blocks[3](model.between(model.blocks[2](model.between(front))))
    return last - model.between(model.between(front))


def test_what_reads_by_strides_is_not_read_in_another_layout() -> None:
    """The front's skeleton would read other elements, so its signal is the value itself."""
    cached = fxcache.transform(build(Strided), ALWAYS)
    call = sample(batch=2)[0]
    with torch.no_grad():
        cached(*call)
    front = next(iter(cached.graph.program.stages.values())).graph.graph
    assert len([n for n in front.nodes if "as_strided" in str(n.target)]) == 1  # between its two blocks


def test_a_dense_stream_keeps_its_views() -> None:
    class Dense(Patched):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            for block in self.blocks:
                x = self.between(block(x))
            return x

    cached = fxcache.transform(build(Dense), ALWAYS)
    with torch.no_grad():
        cached(*sample(batch=2)[0])
    assert "reshape" not in str(cached.graph)
