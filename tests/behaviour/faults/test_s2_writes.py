"""Blocks that write to their inputs return what they do in the model, and the hits of their pure twins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache.errors import BlockMutationError, CaptureError, ExportError
from tests.behaviour.faults.base import EAGER, NEVER, WIDTH, Base, build, equal_uncached, sample
from tests.sweep import sweep


class Gated(nn.Module):
    """Common parts of blocks that are written in place or not."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.gate = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)


class Pure(Gated):
    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gate(x) * self.mix(x)
        return x + self.mix(x)


class InPlace(Gated):
    def forward(self, x: Tensor) -> Tensor:
        x += self.gate(x) * self.mix(x)
        x += self.mix(x)
        return x


class Nothing(Gated):
    """Writes its input and returns nothing."""

    def forward(self, x: Tensor) -> None:
        x.add_(self.gate(x) * self.mix(x))
        x.add_(self.mix(x))


class Out(Gated):
    def forward(self, x: Tensor) -> Tensor:
        torch.add(x, self.gate(x) * self.mix(x), out=x)
        torch._foreach_add_([x], [self.mix(x)])
        return x


class PureSlices(Gated):
    def forward(self, x: Tensor) -> Tensor:
        head = x[:, :2] + self.mix(x[:, :2])
        return torch.cat((head, x[:, 2:] * self.gate(x[:, 2:]).sigmoid()), 1)


class Slices(Gated):
    def forward(self, x: Tensor) -> Tensor:
        x[:, :2] += self.mix(x[:, :2])
        rest = x[:, 2:]
        rest.mul_(self.gate(rest).sigmoid())
        return x


class PureDual(Gated):
    def forward(self, img: Tensor, txt: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat((txt, img), 1)
        new = self.mix(both) * self.gate(both).sigmoid()
        return img + new[:, txt.shape[1] :], txt + new[:, : txt.shape[1]]


class Dual(Gated):
    def forward(self, img: Tensor, txt: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat((txt, img), 1)
        new = self.mix(both) * self.gate(both).sigmoid()
        img += new[:, txt.shape[1] :]
        txt += new[:, : txt.shape[1]]
        return img, txt


class PureSingle(Gated):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(x).tanh()


def single(kind: type[nn.Module]) -> Any:
    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(kind() for _ in range(4))
            self.head = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            x = x + timestep.reshape(-1, 1, 1) / 1000
            for block in self.blocks:
                given = block(x)
                x = x if given is None else given
            return self.head(x)

    return build(Model)


def dual(kind: type[nn.Module], joins_in_place: bool) -> Any:
    class Model(Base):
        """As ComfyUI's Flux: two streams, joined for single blocks that work on slices."""

        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(kind() for _ in range(3))
            self.singles = nn.ModuleList((Slices if joins_in_place else PureSlices)() for _ in range(3))
            self.txt, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            txt = self.txt(x[:, :2])
            img = x * timestep.reshape(-1, 1, 1).cos()
            for block in self.blocks:
                img, txt = block(img, txt)
            both = torch.cat((txt, img), 1)
            for block in self.singles:
                both = block(both)
            return self.head(both[:, txt.shape[1] :])

    return build(Model)


PAIRS = {
    "augmented": (single(InPlace), single(Pure)),
    "nothing": (single(Nothing), single(Pure)),
    "out": (single(Out), single(Pure)),
    "slices": (single(Slices), single(PureSlices)),
    "dual": (dual(Dual, True), dual(PureDual, False)),
}


WRITES = [(name, mode) for name in PAIRS for mode in (torch.no_grad, torch.inference_mode)]
FEW_WRITES = (("dual", torch.no_grad), ("slices", torch.inference_mode))


@pytest.mark.parametrize(("name", "mode"), sweep(WRITES, FEW_WRITES, ids=lambda w: f"{w[0]}-{w[1].__name__}"))
def test_s2_a_block_that_writes_its_input(name: str, mode: Any) -> None:
    written, pure = PAIRS[name]
    with mode():
        calls = sample()
        equal_uncached(written, calls)
        for config in (EAGER, "F2B1_W1M0MC0_T1O1_R1000"):
            first, second = fxcache.transform(written, config), fxcache.transform(pure, config)
            for call in calls:
                assert torch.equal(first(*call), second(*call))
            assert first.stats()["default"].segments == second.stats()["default"].segments
            assert any(first.stats()["default"].segments[0].hits)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_s2_the_callers_tensor_is_written_as_the_model_does(mode: Any) -> None:
    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(InPlace() for _ in range(4))

    model = build(Model)
    cached = fxcache.transform(model, NEVER)
    with mode():
        for x, t in sample():
            mine, theirs = x.clone(), x.clone()
            result, wanted = cached(mine, t), model(theirs, t)
            assert torch.equal(result, wanted) and torch.equal(mine, theirs)
            assert (wanted is theirs) and (result is mine)


def test_s2_a_view_of_the_callers_tensor_is_written_by_the_glue() -> None:
    class Model(Base):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            x[:, :1] *= 2
            return super().forward(x, timestep)

    model = build(Model)
    cached = fxcache.transform(model, NEVER)
    with torch.no_grad():
        for x, t in sample():
            mine, theirs = x.clone(), x.clone()
            assert torch.equal(cached(mine, t), model(theirs, t))
            assert torch.equal(mine, theirs)


def test_s2_inputs_that_share_memory_are_refused_where_one_is_written() -> None:
    class Model(Base):
        def forward(self, x: Tensor, y: Tensor, timestep: Tensor) -> Tensor:
            x += 1
            return super().forward(x, timestep) + y

    x, t = sample()[0]
    with torch.no_grad(), pytest.raises(CaptureError, match="shares memory with another input"):
        fxcache.transform(build(Model), NEVER)(x, x, t)


def test_s2_an_alias_that_lives_on() -> None:
    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(InPlace() for _ in range(4))

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            x = x * 1.0
            first, part = x, x[:, :2]
            for block in self.blocks:
                x = block(x)
            return x + first + part.mean()

    equal_uncached(build(Model), sample())


def test_s2_a_module_that_gives_back_its_very_input() -> None:
    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.1)

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            x = x * 1.0
            same = self.drop(x)
            same += 1
            return super().forward(x, timestep)

    equal_uncached(build(Model), sample())


def test_s2_a_view_that_a_module_gives_is_not_written_silently() -> None:
    class Part(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :2]

    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.part = Part()

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            x = x * 1.0
            part = self.part(x)
            part += 1
            return super().forward(x, timestep)

    with torch.no_grad(), pytest.raises(CaptureError, match="memory that a module's result shares"):
        fxcache.transform(build(Model), NEVER)(*sample()[0])


def test_s2_parts_of_one_tensor_may_be_written() -> None:
    class Split(Gated):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return self.mix(torch.cat((x, x), -1)[..., :WIDTH]).chunk(2, -1)

    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.split = Split()

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            a, b = self.split(x)
            a += b
            return super().forward(torch.cat((a, b), -1), timestep)

    equal_uncached(build(Model), sample())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_s2_a_write_to_the_models_own_table_is_refused(mode: Any) -> None:
    class Writing(Gated):
        def __init__(self, table: list[Tensor]) -> None:
            super().__init__()
            self.get = lambda: table[0]

        def forward(self, x: Tensor) -> Tensor:
            self.get().view(-1)[:1] += 1
            return x + self.mix(x)

    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.zeros(3))
            self.blocks = nn.ModuleList(Writing([self.table]) for _ in range(3))

    model = build(Model)
    with mode(), pytest.raises(BlockMutationError, match=r"blocks\.0"):
        fxcache.transform(model, NEVER)(*sample()[0])


def test_s2_operands_that_share_memory_are_refused_where_one_is_written() -> None:
    class Two(Gated):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            x += self.mix(x)
            return x + y.mean()

    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Two() for _ in range(3))

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            x = x * 1.0
            for block in self.blocks:
                x = block(x, x[:, :2])
            return x

    with torch.inference_mode(), pytest.raises(BlockMutationError, match="shares memory"):
        fxcache.transform(build(Model), NEVER)(*sample()[0])


@pytest.mark.parametrize("mode", sweep(("fused", "single", "staged"), ("single",)))
@pytest.mark.parametrize("name", sweep(("augmented", "dual"), ("dual",)))
def test_s2_compiled(name: str, mode: Any) -> None:
    written, _ = PAIRS[name]
    with torch.no_grad():
        cached = fxcache.transform(written, EAGER)
        compiled = fxcache.compile(cached, mode=mode)
        for call in sample(3):
            torch.testing.assert_close(compiled(*call), cached(*call), rtol=1e-4, atol=1e-5)


@pytest.mark.full
def test_s2_exported(tmp_path: Path) -> None:
    written, _ = PAIRS["dual"]
    with torch.no_grad():
        cached = fxcache.transform(written, EAGER)
        x, t = sample()[0]
        package = fxcache.load(fxcache.export(cached, tmp_path / "m.pt2", {"x": x, "timestep": t}))
        for x, t in sample(3):
            torch.testing.assert_close(package(x=x, timestep=t), cached(x, t), rtol=1e-4, atol=1e-5)


def test_s2_a_package_does_not_write_to_inputs(tmp_path: Path) -> None:
    class Model(Base):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            x += 1
            return super().forward(x, timestep)

    x, t = sample()[0]
    with pytest.raises(ExportError, match=r"writes to its inputs \(x\)"):
        fxcache.export(fxcache.transform(build(Model), EAGER), tmp_path / "m.pt2", {"x": x, "timestep": t})


def test_s2_explained_by_the_blocks_own_names() -> None:
    x, t = sample()[0]
    found = fxcache.explain(PAIRS["dual"][0], EAGER, {"x": x, "timestep": t})
    assert set(found.streams) == {"img", "txt"}
