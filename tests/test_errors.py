"""Each user mistake has its own error, which says what, where and what to do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache.errors import (
    BlockMutationError,
    CaptureError,
    ConfigError,
    NoBlocksError,
    NoTimestepError,
    PassthroughWarning,
    TooManyBlocksError,
    TooManyContextsError,
)
from tests.toy import ToyBlock, latents, timesteps, toy

X, T = latents(1, 0)[0], timesteps(1)[0]


def call(model: nn.Module, config: str = "F1B0_W2M0MC0_T0O1_R0.1", **options: object) -> Tensor:
    with torch.no_grad():
        return fxcache.transform(model, config, **options)(X, T)  # type: ignore[arg-type]


def test_too_many_blocks() -> None:
    with pytest.raises(TooManyBlocksError, match=r"the 4 blocks of ToyDiT \(blocks x4\).*Fn \+ Bn <= 4"):
        call(toy(), "F3B2_W2M0MC0_T0O1_R0.1")


def test_no_repeated_blocks() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
            return self.layer(hidden_states)

    with pytest.raises(NoBlocksError, match="Flat has no chain"):
        call(Flat())


def test_parallel_blocks_are_no_chain() -> None:
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

        def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
            return sum(block(hidden_states) for block in self.blocks)  # type: ignore[return-value]

    with pytest.raises(NoBlocksError):
        call(Parallel())


class Undecided(nn.Module):
    """Glue whose Python depends on a value that the blocks computed."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ToyBlock(8) for _ in range(3))

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states, timestep.reshape(-1, 1, 1))
            if hidden_states.sum() > 1e9:
                break
        return hidden_states


def test_a_forward_that_cannot_be_captured_says_why() -> None:
    with pytest.raises(CaptureError, match="Undecided") as error:
        call(Undecided().eval())
    assert set(error.value.attempts) == {"symbolic", "static", "real"}


def test_passthrough_runs_uncached_and_warns_once() -> None:
    model = Undecided().eval().requires_grad_(False)
    cached = fxcache.transform(model, "F1B0_W2M0MC0_T0O1_R0.1", on_unsupported="passthrough")
    with torch.no_grad(), pytest.warns(PassthroughWarning, match="runs uncached") as caught:
        for x, t in zip(latents(3, 0), timesteps(3), strict=True):
            assert torch.equal(cached(x, t), model(x, t))
    assert len(caught) == 1


def test_a_block_that_writes_to_what_is_not_its_own_is_refused() -> None:
    class Counting(ToyBlock):
        def __init__(self, counts: list[Tensor]) -> None:
            super().__init__(8)
            self.count = lambda: counts[0].add_(1)

        def forward(self, hidden_states: Tensor, temb: Tensor) -> Tensor:
            self.count()
            return super().forward(hidden_states, temb)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            counts = [torch.zeros(1)]
            self.blocks = nn.ModuleList(Counting(counts) for _ in range(3))

        def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
            for block in self.blocks:
                hidden_states = block(hidden_states, timestep.reshape(-1, 1, 1))
            return hidden_states

    with pytest.raises(BlockMutationError, match=r"blocks\.0.*not its own.*side effects"):
        call(Model().eval())


def test_unknown_timestep_input() -> None:
    with pytest.raises(NoTimestepError, match="hidden_states, timestep"):
        fxcache.transform(toy(), timestep="when")


def test_unknown_options() -> None:
    with pytest.raises(ConfigError, match="scope"):
        fxcache.transform(toy(), scope="block")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="on_unsupported"):
        fxcache.transform(toy(), on_unsupported="ignore")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="config"):
        fxcache.transform(toy(), 3)  # type: ignore[arg-type]


def test_contexts_do_not_grow_without_bound() -> None:
    cached = fxcache.transform(toy(), "F1B0_W2M0MC0_T0O1_R0.1", max_contexts=3)
    with torch.no_grad(), pytest.raises(TooManyContextsError, match="max_contexts"):
        for i in range(5):
            with cached.cache_context(f"request {i}"):
                cached(X, T)


def test_a_bad_model_is_refused_early_with_example_inputs() -> None:
    with pytest.raises(TooManyBlocksError):
        fxcache.transform(toy(), "F9B0_W2M0MC0_T0O1_R0.1", example_inputs={"hidden_states": X, "timestep": T})
