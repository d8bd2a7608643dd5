"""What is in force around a leaf call while the forward runs is in force while the graph runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

import fxcache
from fxcache.environment.ambient_settings import ambient_key
from fxcache.errors import CaptureError
from tests.behaviour.faults.base import EAGER, NEVER, WIDTH, Base, build, equal_uncached, sample
from tests.sweep import sweep

Context = Callable[[], AbstractContextManager[Any]]


class Attending(nn.Module):
    """A block whose result depends on autocast, the default dtype and the choice of attention kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(x)
        y = F.scaled_dot_product_attention(y, y, y) * torch.ones(WIDTH, device=y.device)
        return x + y.to(x.dtype) * torch.tensor(1.0 / 3.0)


def within(context: Context, block: type[nn.Module] = Attending) -> Any:
    """A model that opens `context` around its blocks."""

    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(WIDTH, WIDTH)
            self.blocks = nn.ModuleList(block() for _ in range(4))
            self.head = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            x = F.linear(self.embed(x), self.head.weight).float()
            with context():
                for one in self.blocks:
                    x = one(x)
            return self.head(x.float())

    return build(Model)


def low() -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16)


def off() -> AbstractContextManager[Any]:
    return torch.autocast("cpu", enabled=False)


@contextlib.contextmanager
def double_default() -> Any:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def matmul_medium() -> Any:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


CONTEXTS: dict[str, Context] = {
    "autocast": low,
    "math": lambda: sdpa_kernel([SDPBackend.MATH]),
    "dtype": double_default,
    "precision": matmul_medium,
    "inference": torch.inference_mode,
    "grad": torch.enable_grad,
    "device": lambda: torch.device("cpu"),
}


@pytest.mark.parametrize("name", CONTEXTS)
def test_s1_a_context_inside_the_forward(name: str) -> None:
    model = within(CONTEXTS[name])
    equal_uncached(model, sample())
    with torch.inference_mode():
        cached = fxcache.transform(model, NEVER)
        for call in sample(2):
            assert torch.equal(cached(*call), model(*call))


def test_s1_autocast_changes_what_the_blocks_give() -> None:
    assert not torch.equal(within(low)(*sample()[0]), within(contextlib.nullcontext)(*sample()[0]))


@pytest.mark.parametrize("inner", [off, low])
@pytest.mark.parametrize("outer", [off, low])
def test_s1_autocast_inside_an_outer_region(inner: Context, outer: Context) -> None:
    with outer():
        equal_uncached(within(inner), sample())


def test_s1_glue_leaves_the_outer_region() -> None:
    class Model(Base):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            with off():
                return F.linear(x.float(), self.blocks[0].mix.weight)

    with low():
        equal_uncached(build(Model), sample())


def test_s1_a_decorated_forward() -> None:
    class Model(Base):
        @torch.autocast("cpu", torch.bfloat16)
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            return super().forward(x, timestep)

    equal_uncached(build(Model), sample())


def test_s1_a_module_called_under_two_settings() -> None:
    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            with low():
                x = self.shared(x).float()
            return self.shared(super().forward(x, timestep))

    equal_uncached(build(Model), sample())


def test_s1_hits_under_autocast_match_a_block_that_opens_it_itself() -> None:
    class Own(Attending):
        def forward(self, x: Tensor) -> Tensor:
            with low():
                return super().forward(x)

    outside, inside = within(low), within(contextlib.nullcontext, Own)
    first, second = fxcache.transform(outside, EAGER), fxcache.transform(inside, EAGER)
    with torch.no_grad():
        for call in sample():
            assert torch.equal(first(*call), second(*call))
    assert sum(first.stats()["default"].segments[0].hits) == 3


def test_s1_capturing_leaves_no_cast_weight_in_the_callers_region() -> None:
    model = within(low).requires_grad_(True)
    with torch.no_grad(), low():
        wanted, linear = model(*sample()[0]), model.blocks[0].mix(sample()[0][0])
        cached = fxcache.transform(model, NEVER)
        assert torch.equal(cached(*sample()[0]), wanted)
        assert torch.equal(model(*sample()[0]), wanted)
        assert torch.equal(model.blocks[0].mix(sample()[0][0]), linear)


def test_s1_a_mode_opened_in_the_forward_is_refused() -> None:
    class Doubling(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            return result * 2 if func is F.linear else result

    cached = fxcache.transform(within(Doubling), NEVER)
    with torch.no_grad(), pytest.raises(CaptureError, match="Doubling"):
        cached(*sample()[0])


def test_s1_a_setting_left_behind_is_refused_and_put_back() -> None:
    class Model(Base):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            torch.set_float32_matmul_precision("medium")
            return super().forward(x, timestep)

    x, t = sample()[0]
    with pytest.raises(CaptureError, match="matmul precision"):
        fxcache.transform(build(Model), NEVER, example_inputs={"x": x, "timestep": t})
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(
    "context", [double_default, matmul_medium, CONTEXTS["math"], CONTEXTS["device"], low]
)
def test_s1_another_ambient_captures_anew(context: Context) -> None:
    plain = ambient_key()
    with context():
        assert ambient_key() != plain
        assert ambient_key() == ambient_key()
    assert ambient_key() == plain


def test_s1_attention_backend_of_diffusers() -> None:
    dispatch = pytest.importorskip("diffusers.models.attention_dispatch")

    class Dispatched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            name, _ = dispatch._AttentionBackendRegistry.get_active_backend()
            return x + self.mix(x) * len(name.value)

    model = within(lambda: dispatch.attention_backend("_native_math"), Dispatched)
    equal_uncached(model, sample())


@pytest.mark.parametrize("mode", sweep(("fused", "single", "staged"), ("fused",)))
def test_s1_compiled(mode: Any) -> None:
    for inner, outer in ((low, off), (off, low)):
        model = within(inner)
        with torch.no_grad(), outer():
            compiled = fxcache.compile(fxcache.transform(model, NEVER), mode=mode)
            for call in sample(2):
                torch.testing.assert_close(compiled(*call), model(*call), rtol=2e-2, atol=2e-2)
                assert compiled(*call).dtype == model(*call).dtype


@pytest.mark.full
def test_s1_exported(tmp_path: Path) -> None:
    model = within(low)
    x, t = sample()[0]
    with torch.no_grad():
        path = fxcache.export(fxcache.transform(model, NEVER), tmp_path / "m.pt2", {"x": x, "timestep": t})
        loaded = fxcache.load(path)
        torch.testing.assert_close(loaded(x=x, timestep=t), model(x, t), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("tokens", [5, 7])
def test_s1_inference_mode_runs_the_kernels_that_the_model_runs(tokens: int) -> None:
    """Operators made of others reach the tracer whole there, which has other arithmetic for them."""

    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.mixer = nn.Parameter(torch.randn(WIDTH, WIDTH))

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            x = torch.matmul(torch.matmul(x, self.mixer), self.mixer.T)
            tall = F.interpolate(x.transpose(1, 2), size=12, mode="linear")
            x = x + 0.1 * F.interpolate(tall, size=tokens, mode="linear").transpose(1, 2)
            return super().forward(x, timestep)

    model = build(Model)
    cached = fxcache.transform(model, NEVER)
    with torch.inference_mode():
        for x, timestep in sample(tokens=tokens):
            assert torch.equal(cached(x, timestep), model(x, timestep))
