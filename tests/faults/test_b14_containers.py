"""B14: blocks are found however they are held."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fxcache
from fxcache.errors import NoBlocksError

from .base import EAGER, WIDTH, Block, build, equal_uncached, sample


class Other(nn.Module):
    """A block of another class."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.net(x)


class Net(nn.Module):
    """A small model around blocks: a first and a last layer, and an embedding of the time by an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.embed = nn.Sequential(nn.Linear(1, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.hold()

    def hold(self) -> None:
        raise NotImplementedError

    def run(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        x = self.first(x) + self.embed(timestep.reshape(-1, 1, 1) / 1000)
        return self.last(self.run(x))


class InModuleDict(Net):
    def hold(self) -> None:
        self.blocks = nn.ModuleDict({f"layer{i}": Block() for i in range(4)})

    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks.values():
            x = block(x)
        return x


class InSequential(Net):
    def hold(self) -> None:
        self.blocks = nn.Sequential(*(Block() for _ in range(4)))

    def run(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class InIteratedSequential(InSequential):
    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class InPlainList(Net):
    def hold(self) -> None:
        self.blocks = [Block() for _ in range(4)]

    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class InPlainTuple(InPlainList):
    def hold(self) -> None:
        self.blocks = tuple(Block() for _ in range(4))  # type: ignore[assignment]


class InPlainDict(Net):
    def hold(self) -> None:
        self.blocks = {f"block.{i}": Block() for i in range(4)}

    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks.values():
            x = block(x)
        return x


class InPrivateList(Net):
    def hold(self) -> None:
        self._blocks = [Block() for _ in range(4)]

    def run(self, x: Tensor) -> Tensor:
        for block in self._blocks:
            x = block(x)
        return x


class InHelper(Net):
    def hold(self) -> None:
        self.helper = SimpleNamespace(parts=SimpleNamespace(blocks=[Block() for _ in range(4)]))

    def run(self, x: Tensor) -> Tensor:
        for block in self.helper.parts.blocks:
            x = block(x)
        return x


class InAttributes(Net):
    def hold(self) -> None:
        for i in range(4):
            setattr(self, f"block{i}", Block())

    def run(self, x: Tensor) -> Tensor:
        for i in range(4):
            x = getattr(self, f"block{i}")(x)
        return x


class InOtherAttributes(Net):
    def hold(self) -> None:
        self.early, self.middle, self.late = Block(), Block(), Block()

    def run(self, x: Tensor) -> Tensor:
        return self.late(self.middle(self.early(x)))


class InDictsOfList(Net):
    def hold(self) -> None:
        self.blocks = nn.ModuleList(nn.ModuleDict({"mix": Block(), "ff": Other()}) for _ in range(4))

    def run(self, x: Tensor) -> Tensor:
        for layer in self.blocks:
            x = layer["ff"](layer["mix"](x))  # type: ignore[index]
        return x


class InListsOfList(Net):
    def hold(self) -> None:
        self.blocks = nn.ModuleList(nn.ModuleList((Block(), Other())) for _ in range(4))

    def run(self, x: Tensor) -> Tensor:
        for mix, ff in self.blocks:  # type: ignore[misc]
            x = ff(mix(x))
        return x


class InSequentialsOfList(Net):
    def hold(self) -> None:
        self.blocks = nn.ModuleList(nn.Sequential(Block(), Other()) for _ in range(4))

    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class InIteratedSequentialsOfList(InSequentialsOfList):
    def run(self, x: Tensor) -> Tensor:
        for layer in self.blocks:
            for block in layer:  # type: ignore[attr-defined]
                x = block(x)
        return x


class Holder(nn.Module):
    """A wrapper that holds and runs blocks."""

    def __init__(self, net: type[Net]) -> None:
        super().__init__()
        self.hold = net.hold.__get__(self)
        self.run = net.run.__get__(self)
        self.hold()

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def wrapped(net: type[Net], times: int = 1) -> type[Net]:
    """Like `net`, the blocks held and run by a wrapper in `times - 1` further ones."""

    class Wrapped(Net):
        def hold(self) -> None:
            self.inner: nn.Module = Wrapper(Holder(net)) if times > 1 else Holder(net)

        def run(self, x: Tensor) -> Tensor:
            return self.inner(x)

    return Wrapped


class Wrapper(nn.Module):
    """What DistributedDataParallel looks like from outside."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


class Repeated(Net):
    """One block, called again and again."""

    def hold(self) -> None:
        self.block = Block()

    def run(self, x: Tensor) -> Tensor:
        for _ in range(4):
            x = self.block(x)
        return x


class RepeatedInList(Net):
    def hold(self) -> None:
        block = Block()
        self.blocks = nn.ModuleList([block] * 4)

    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class InEncoder(Net):
    def hold(self) -> None:
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 4)

    def run(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class EncoderLayers(Net):
    def hold(self) -> None:
        self.blocks = nn.Sequential(
            *(nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True) for _ in range(4))
        )

    def run(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class WrappedBlocks(Net):
    def hold(self) -> None:
        self.blocks = nn.Sequential(*(Wrapper(Block()) for _ in range(4)))

    def run(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class Checkpointed(InSequential):
    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return x


class SmallListBeside(InSequential):
    """A module list that is not the heaviest: refiners, experts, embedders."""

    def hold(self) -> None:
        super().hold()
        self.refiners = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def run(self, x: Tensor) -> Tensor:
        for refiner in self.refiners:
            x = refiner(x)
        return super().run(x)


class OwnTensor(InPlainList):
    """The glue uses a parameter of a module that is not registered."""

    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x) * (1 + 0.1 * self.blocks[0].mix.bias)
        return x


FORMS: dict[type[Net], int] = {
    InModuleDict: 4, InSequential: 4, InIteratedSequential: 4, InPlainList: 4, InPlainTuple: 4,
    InPlainDict: 4, InPrivateList: 4, InHelper: 4, InAttributes: 4, InOtherAttributes: 3, InDictsOfList: 8,
    InListsOfList: 8, InSequentialsOfList: 4, InIteratedSequentialsOfList: 8, Repeated: 4, RepeatedInList: 4,
    InEncoder: 4, EncoderLayers: 4, WrappedBlocks: 4, Checkpointed: 4, SmallListBeside: 6, OwnTensor: 4,
}  # fmt: skip
FAST_PATH = (InEncoder, EncoderLayers)  # torch does not count the operators of its fast path
WRAPPED = (InSequential, InPlainList, InAttributes, InOtherAttributes, Repeated, InDictsOfList, InHelper)


def blocks_of(model: nn.Module, calls: list[tuple[Tensor, Tensor]], scope: str = "model") -> int:
    bound = {"x": calls[0][0], "timestep": calls[0][1]}
    variant = fxcache.transform(model, EAGER, scope=scope).variant_for(bound)[0]
    return sum(len(s.blocks) for s in variant.program.segments)


def check(kind: Callable[[], nn.Module], blocks: int) -> None:
    model, calls = build(kind), sample()
    equal_uncached(model, calls)
    equal_uncached(model, calls, scope="list")
    assert blocks_of(model, calls) == blocks
    cached = fxcache.transform(model, EAGER)
    seen = []
    with torch.no_grad():
        for call in calls:
            seen.append(cached(*call))
        assert torch.equal(seen[0], model(*calls[0]))
    assert cached.stats()["default"].cached_steps == (1, 2, 3)
    if kind not in FAST_PATH:
        assert cached.stats()["default"].flops_saved


@pytest.mark.parametrize("kind", FORMS, ids=lambda k: k.__name__)
def test_b14_blocks_held_in(kind: type[Net]) -> None:
    check(kind, FORMS[kind])


@pytest.mark.parametrize("kind", WRAPPED, ids=lambda k: k.__name__)
@pytest.mark.parametrize("times", [1, 2])
def test_b14_blocks_in_a_wrapper(kind: type[Net], times: int) -> None:
    check(wrapped(kind, times), FORMS[kind])


def test_b14_the_whole_model_in_a_wrapper() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = InSequential()

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            return self.module(x, timestep)

    check(Whole, 4)


def test_b14_model_that_is_a_sequential() -> None:
    class Root(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(*(Block() for _ in range(4)))

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x)

    check(Root, 4)


@pytest.mark.parametrize(
    "kind", [InPlainList, InPlainDict, InHelper, InModuleDict, InSequential, InAttributes]
)
def test_b14_a_block_that_is_replaced(kind: type[Net]) -> None:
    model, calls = build(kind), sample()
    cached = equal_uncached(model, calls)
    new = build(Block, seed=7)
    if kind is InAttributes:
        model.block2 = new
    else:
        blocks = model.helper.parts.blocks if kind is InHelper else model.blocks
        blocks["block.2" if kind is InPlainDict else "layer2" if kind is InModuleDict else 2] = new
    with torch.no_grad():
        assert torch.equal(cached(*calls[0]), model(*calls[0]))


def test_b14_blocks_in_a_list_stay_when_other_things_are_lighter() -> None:
    """The module list is the heaviest: what else is there changes nothing."""

    class Usual(Net):
        def hold(self) -> None:
            self.blocks = nn.ModuleList(Block() for _ in range(4))
            self.head = nn.Sequential(Other(), Other())

        def run(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    assert blocks_of(build(Usual), sample()) == 4


def test_b14_a_model_without_repetition_is_refused() -> None:
    class Single(Net):
        def hold(self) -> None:
            self.block = Block()

        def run(self, x: Tensor) -> Tensor:
            return self.block(x)

    with pytest.raises(NoBlocksError, match="modules of one class"), torch.no_grad():
        fxcache.transform(build(Single), EAGER)(*sample()[0])


@pytest.mark.parametrize("mode", ["fused", "staged"])
def test_b14_compiled(mode: Any) -> None:
    model, calls = build(InPlainList), sample()
    plain = fxcache.transform(model, EAGER)
    compiled = fxcache.compile(fxcache.transform(model, EAGER), mode=mode)
    with torch.no_grad():
        for call in calls:
            torch.testing.assert_close(compiled(*call), plain(*call))
