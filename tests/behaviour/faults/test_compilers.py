"""S15: compilers and tracers that people have in their scripts either do what fxcache does, or refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import fxcache
from fxcache.backends.inductor import Inductor
from fxcache.errors import BackendError, TracingError, UnknownOptionError
from tests.behaviour.zoo import find

from .base import EAGER, NEVER, Base, build, sample

HITS = (False, True, True, True)


@torch.no_grad()
def run(model: Callable[..., Tensor], steps: int = 4) -> list[Tensor]:
    return [model(*call) for call in sample(steps)]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("options", [{}, {"fullgraph": True}, {"mode": "max-autotune"}, {"dynamic": True}])
def test_s15_torch_compile_of_a_cached_model_is_refused(options: dict[str, Any]) -> None:
    cached = fxcache.transform(build(Base), EAGER)
    for _ in range(2):
        with pytest.raises(TracingError, match=r"torch\.compile of .* fxcache\.compile\(cached") as error:
            torch.compile(cached, **options)
        assert isinstance(error.value, BackendError)
        run(cached)
        assert cached.stats()["default"].hits == HITS
    with pytest.raises(TracingError):
        torch.compile(fxcache.compile(cached), **options)


@pytest.mark.parametrize("used", [False, True])
def test_s15_compile_in_place_is_fxcaches(used: bool) -> None:
    cached = fxcache.transform(build(Base), EAGER)
    if used:
        run(cached)
    expected = run(fxcache.compile(cached))
    assert cached.compile() is None
    assert same(run(cached), expected)
    assert cached.stats()["default"].hits == HITS
    assert cached._options["lower"] == Inductor("fused")
    assert cached._compiled_call_impl is None and not hasattr(cached.original, "_orig_mod")


def test_s15_options_of_torch_compile() -> None:
    cached = fxcache.transform(build(Base), EAGER)
    plain = run(cached)
    for options in ({"backend": "eager"}, {"backend": "eager", "fullgraph": True, "dynamic": True}):
        cached.compile(**options)
        assert same(run(cached), plain)
        assert cached.stats()["default"].hits == HITS
    cached.compile(mode="max-autotune-no-cudagraphs")
    assert cached._options["lower"].options["options"]["max_autotune"]
    for mode in ("default", None, "fused"):
        cached.compile(mode=mode)
        assert cached._options["lower"] == Inductor("fused")
    with pytest.raises(BackendError, match="one of fused, single"):
        cached.compile(mode="fastest")
    with pytest.raises(UnknownOptionError, match="did you mean 'fullgraph'"):
        cached.compile(fullgrph=True)
    with pytest.raises(BackendError, match=r"fxcache\.compile"):
        cached.compile(backend="tensorrt")


def test_s15_compile_repeated_blocks_is_the_staged_mode() -> None:
    model, inputs = find("FluxTransformer2DModel").build()
    cached = fxcache.transform(model, NEVER)
    cached.compile_repeated_blocks(fullgraph=True, backend="eager")
    assert cached._options["lower"].mode == "staged"
    assert all(m._compiled_call_impl is None for m in model.modules())
    with torch.no_grad():
        ours = cached(**inputs, return_dict=False)[0]
        torch.testing.assert_close(ours, model(**inputs, return_dict=False)[0])


class Outer(nn.Module):
    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.net(x * 1, timestep) + 1


class ByForward(Outer):
    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.net.forward(x * 1, timestep) + 1


class BySampler(Outer):
    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.net.halves(x * 1, timestep) + 1


class Sampling(Base):
    def halves(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.forward(x, timestep) * 0.5


@pytest.mark.parametrize("lowered", [False, True])
@pytest.mark.parametrize("kind", [Outer, ByForward, BySampler])
def test_s15_compiled_code_around_a_cached_model(kind: type[Outer], lowered: bool) -> None:
    cached: Any = fxcache.transform(build(Sampling), EAGER)
    if lowered:
        cached = fxcache.compile(cached, backend="eager")
    expected = run(kind(cached))
    cached.reset()
    torch._dynamo.reset()
    assert same(run(torch.compile(kind(cached), backend="eager")), expected)
    assert cached.stats()["default"].hits == HITS
    torch._dynamo.reset()
    reason = None if kind is BySampler else r"use fxcache\.compile\(cached"
    with pytest.raises(torch._dynamo.exc.Unsupported, match=reason):
        run(torch.compile(kind(cached), backend="eager", fullgraph=True))


@pytest.mark.parametrize("inner", [False, True], ids=["itself", "inside another"])
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_s15_other_tracers_are_refused(inner: bool, used: bool) -> None:
    cached = fxcache.transform(build(Base), EAGER)
    if used:
        run(cached)
    model: Any = Outer(cached) if inner else cached
    call = sample()[0]
    tracers: dict[str, Callable[[], Any]] = {
        "torch.export": lambda: torch.export.export(model, call),
        "torch.jit.trace": lambda: torch.jit.trace(model, call),
        "torch.jit.script": lambda: torch.jit.script(model),
        "torch.fx": lambda: torch.fx.symbolic_trace(model),
        "torch.fx ": lambda: make_fx(model)(*call),
        "torch.fx  ": lambda: make_fx(model, tracing_mode="fake")(*call),
    }
    with torch.no_grad():
        for name, trace in tracers.items():
            with pytest.raises(TracingError, match=f"^{name.strip()} of a cached model"):
                trace()
        with pytest.raises(torch._dynamo.exc.Unsupported, match="a cached model decides at run time"):
            torch.export.export(model, call, strict=True)
    assert len(run(cached)) == 4
