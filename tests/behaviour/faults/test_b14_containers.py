"""B14: blocks are found however they are held."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fxcache
from fxcache.errors import NoBlocksError
from tests.reference import CachedReference
from tests.sweep import sweep

from .base import EAGER, NEVER, WIDTH, Block, build, equal_uncached, sample


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
FEW_FORMS = (
    InModuleDict, InIteratedSequential, InPlainDict, InHelper, InOtherAttributes, InListsOfList, Repeated,
    WrappedBlocks, Checkpointed, OwnTensor,
)  # fmt: skip
FAST_PATH = (InEncoder, EncoderLayers)  # torch does not count the operators of its fast path
WRAPPED = (InSequential, InPlainList, InAttributes, InOtherAttributes, Repeated, InDictsOfList, InHelper)


def blocks_of(model: nn.Module, calls: list[tuple[Tensor, Tensor]], scope: str = "model") -> int:
    bound = {"x": calls[0][0], "timestep": calls[0][1]}
    specialization = fxcache.transform(model, EAGER, scope=scope).specialization_for(bound)[0]
    return sum(len(s.blocks) for s in specialization.program.segments)


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


@pytest.mark.parametrize("kind", sweep(FORMS, FEW_FORMS, ids=lambda k: k.__name__))
def test_b14_blocks_held_in(kind: type[Net]) -> None:
    check(kind, FORMS[kind])


@pytest.mark.parametrize("kind", sweep(WRAPPED, (InSequential, InHelper), ids=lambda k: k.__name__))
@pytest.mark.parametrize("times", sweep((1, 2), (2,)))
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


# ---------------------------------------------------------------- held where the model's tree does not show


class InClassList(Net):
    """In a list of the class."""

    LAYERS: ClassVar[list[nn.Module]] = []

    def hold(self) -> None:
        type(self).LAYERS = [Block() for _ in range(4)]

    def run(self, x: Tensor) -> Tensor:
        for block in type(self).LAYERS:
            x = block(x)
        return x


class InClosure(Net):
    """In a variable of a function that the model holds."""

    def hold(self) -> None:
        blocks = [Block() for _ in range(4)]

        def go(x: Tensor) -> Tensor:
            for block in blocks:
                x = block(x)
            return x

        self.go = go
        self.kept = lambda: blocks

    def run(self, x: Tensor) -> Tensor:
        return self.go(x)


class InDeque(Net):
    def hold(self) -> None:
        self.blocks = deque(Block() for _ in range(4))

    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


GLOBAL: list[nn.Module] = []


class InGlobal(Net):
    def hold(self) -> None:
        GLOBAL[:] = [Block() for _ in range(4)]

    def run(self, x: Tensor) -> Tensor:
        for block in GLOBAL:
            x = block(x)
        return x


class Slotted:
    """Holds blocks in a slot."""

    __slots__ = ("_blocks",)

    def __init__(self) -> None:
        self._blocks = [Block() for _ in range(4)]

    def blocks(self) -> Iterator[nn.Module]:
        yield from self._blocks


class InSlots(Net):
    def hold(self) -> None:
        self.holder = Slotted()

    def run(self, x: Tensor) -> Tensor:
        for block in self.holder.blocks():
            x = block(x)
        return x


def apply_to(blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x


class InPartial(Net):
    def hold(self) -> None:
        self.go = functools.partial(apply_to, tuple(Block() for _ in range(4)))

    def run(self, x: Tensor) -> Tensor:
        return self.go(x)


class InProperty(Net):
    """In a tuple that a property makes of private attributes."""

    def hold(self) -> None:
        self._held = SimpleNamespace(_made=[Block() for _ in range(4)])

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        return tuple(block for block in self._held._made)

    def run(self, x: Tensor) -> Tensor:
        return apply_to(self.blocks, x)


class Registry:
    """Holds named things in private."""

    def __init__(self) -> None:
        self._things: dict[str, nn.Module] = {}

    def add(self, name: str, thing: nn.Module) -> None:
        self._things[name] = thing

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self._things.values())


class InRegistry(Net):
    def hold(self) -> None:
        self.registry = Registry()
        for i in range(4):
            self.registry.add(f"layer {i}", Block())

    def run(self, x: Tensor) -> Tensor:
        return apply_to(self.registry, x)


@dataclass
class Parts:
    """Holds blocks in a field."""

    _blocks: list[nn.Module]


class InDataclass(Net):
    def hold(self) -> None:
        self.parts = Parts([Block() for _ in range(4)])

    def run(self, x: Tensor) -> Tensor:
        return apply_to(self.parts._blocks, x)


class InListOfObject(Net):
    """In an `nn.ModuleList` that no module holds."""

    def hold(self) -> None:
        self.parts = Parts(nn.ModuleList(Block() for _ in range(4)))  # type: ignore[arg-type]

    def run(self, x: Tensor) -> Tensor:
        return apply_to(self.parts._blocks, x)


class Link(nn.Module):
    """A block, and the links that follow."""

    def __init__(self, following: int) -> None:
        super().__init__()
        self.block = Block()
        self.next = Link(following - 1) if following else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        return x if self.next is None else self.next(x)


class InLinks(Net):
    """In modules that hold, and call, one another."""

    def hold(self) -> None:
        self.head = Link(7)

    def run(self, x: Tensor) -> Tensor:
        return self.head(x)


class Reading(Block):
    """A block that decides by values, so that nothing of it runs on fake tensors."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.abs().sum() > 0 else x


class InDequeReading(InDeque):
    def hold(self) -> None:
        self.blocks = deque(Reading() for _ in range(4))


class Remembering(Block):
    """A block that keeps what it made of its input's size."""

    table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.linspace(0.5, 1.5, x.shape[-1])
        return super().forward(x * self.table)


class InDequeRemembering(InDeque):
    def hold(self) -> None:
        self.blocks = deque(Remembering() for _ in range(4))


UNHELD: dict[type[Net], int] = {
    InClassList: 4, InClosure: 4, InDeque: 4, InGlobal: 4, InSlots: 4, InPartial: 4, InProperty: 4,
    InRegistry: 4, InDataclass: 4, InListOfObject: 4, InLinks: 8, InDequeReading: 4, InDequeRemembering: 4,
}  # fmt: skip


def blocks_held(model: Any) -> list[nn.Module]:
    """The blocks of a model of `UNHELD`."""
    seen: list[nn.Module] = []
    with pytest.MonkeyPatch.context() as patch:
        usual = Block.forward
        patch.setattr(Block, "forward", lambda self, x: (seen.append(self), usual(self, x))[1])
        with torch.no_grad():
            model(*sample()[0])
    return seen


FEW_UNHELD = (InClosure, InSlots, InDequeReading)


@pytest.mark.parametrize("kind", sweep(UNHELD, FEW_UNHELD, ids=lambda k: k.__name__))
def test_b14_blocks_called_wherever_they_are(kind: type[Net]) -> None:
    model, calls = frozen(kind), sample()
    equal_uncached(model, calls)
    equal_uncached(model, calls, scope="list")
    assert blocks_of(model, calls) == UNHELD[kind]
    cached = fxcache.transform(model, EAGER)
    reference = CachedReference(Twin(model), [f"blocks.{i}" for i in range(UNHELD[kind])], fn=1, bn=0)
    with torch.no_grad():
        for step, (x, timestep) in enumerate(calls):
            expected = reference({"x": x, "timestep": timestep}, hit=step > 0)
            torch.testing.assert_close(cached(x, timestep), expected)
    assert cached.stats()["default"].cached_steps == (1, 2, 3)
    if kind is not InDequeReading:  # nothing of it runs where operators are counted
        assert cached.stats()["default"].flops_saved


class Twin(nn.Module):
    """A model with the same modules, its blocks in a list."""

    def __init__(self, model: Net) -> None:
        super().__init__()
        self.parts = nn.ModuleList((model.first, model.embed, model.last))
        self.blocks = nn.ModuleList(blocks_held(model))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        first, embed, last = self.parts
        return last(apply_to(self.blocks, first(x) + embed(timestep.reshape(-1, 1, 1) / 1000)))  # type: ignore[no-any-return]


def frozen(kind: type[Net]) -> Any:
    """A model whose blocks, too, are for inference alone."""
    model = build(kind)
    for block in blocks_held(model):
        block.eval().requires_grad_(False)
        vars(block).pop("table", None)
    return model


def test_b14_unheld_blocks_that_are_replaced_or_written_to() -> None:
    model, calls = frozen(InDeque), sample()
    cached = equal_uncached(model, calls)
    with torch.no_grad():
        model.blocks[1].mix.weight.mul_(1.5)
        assert torch.equal(cached(*calls[0]), model(*calls[0]))
        model.blocks[2].mix = nn.Linear(WIDTH, WIDTH)
        assert torch.equal(cached(*calls[0]), model(*calls[0]))
        model.blocks[3] = build(Block, seed=7)
        assert torch.equal(cached(*calls[0]), model(*calls[0]))
        model.blocks.append(build(Block, seed=8))
        assert torch.equal(cached(*calls[0]), model(*calls[0]))


def test_b14_a_capture_leaves_nothing_fake_in_unheld_blocks() -> None:
    model, calls = frozen(InDequeRemembering), sample()
    fxcache.transform(model, NEVER).prepare({"x": calls[0][0], "timestep": calls[0][1]})
    assert all(block.table is None for block in model.blocks)


def test_b14_unheld_blocks_in_training_run_uncached_with_gradients() -> None:
    model, calls = build(InDeque), sample()
    cached = fxcache.transform(model, EAGER)
    with pytest.warns(fxcache.errors.GradientWarning):
        cached(*calls[0]).sum().backward()
    got = [block.mix.weight.grad.clone() for block in model.blocks]
    for block in model.blocks:
        block.mix.weight.grad = None
    model(*calls[0]).sum().backward()
    assert all(torch.equal(g, block.mix.weight.grad) for g, block in zip(got, model.blocks, strict=True))


def test_b14_explain_names_unheld_blocks() -> None:
    model, (x, timestep) = frozen(InDeque), sample()[0]
    found = fxcache.explain(model, EAGER, {"x": x, "timestep": timestep})
    assert found.segments[0].blocks == tuple(f"InDeque_blocks_{i}" for i in range(4))
    assert found.lists == (("Block", "Block", 4),)


def test_b14_linked_blocks_keep_their_paths() -> None:
    model, (x, timestep) = frozen(InLinks), sample()[0]
    found = fxcache.explain(model, EAGER, {"x": x, "timestep": timestep})
    assert found.segments[0].blocks == tuple(f"head{'.next' * i}.block" for i in range(8))


@pytest.mark.parametrize("mode", sweep(("fused", "staged"), ("staged",)))
@pytest.mark.parametrize("kind", sweep((InPlainList, InDeque), (InDeque,), ids=lambda k: k.__name__))
def test_b14_compiled(kind: type[nn.Module], mode: Any) -> None:
    model, calls = frozen(kind), sample()
    plain = fxcache.transform(model, EAGER)
    compiled = fxcache.compile(fxcache.transform(model, EAGER), mode=mode)
    with torch.no_grad():
        for call in calls:
            torch.testing.assert_close(compiled(*call), plain(*call))


@pytest.mark.full
def test_b14_unheld_blocks_exported(tmp_path: Path) -> None:
    model, calls = frozen(InDeque), sample()
    plain = fxcache.transform(model, EAGER)
    example = dict(zip(("x", "timestep"), calls[0], strict=True))
    loaded = fxcache.load(fxcache.export(plain, tmp_path / "model.pt2", example))
    with torch.no_grad():
        for call in calls:
            torch.testing.assert_close(loaded(*call), plain(*call))


def test_b14_modules_that_nothing_repeats_are_refused_whoever_holds_them() -> None:
    class Single(InDeque):
        def hold(self) -> None:
            self.blocks = deque([Block()])

    with pytest.raises(NoBlocksError, match="modules of one class"), torch.no_grad():
        fxcache.transform(frozen(Single), EAGER)(*sample()[0])
