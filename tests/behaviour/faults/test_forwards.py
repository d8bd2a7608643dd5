"""S8, B19: a forward is called as it is on this object, and what is no model is refused with what to do."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache.capture.forward_inputs import ForwardInputs
from fxcache.errors import ArgumentsError, FxcacheError, NotAModelError, NoTimestepError, TrajectoryWarning
from tests.sweep import sweep

from .base import EAGER, NEVER, WIDTH, Base, build, sample


@pytest.fixture(autouse=True)
def no_trajectory_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrajectoryWarning)
        yield


def two_runs(model: nn.Module, call: Callable[[Any, Tensor, Tensor], Tensor], **options: Any) -> Any:
    """Each call is the model's; of two runs each starts with a miss and goes on with hits."""
    exact = fxcache.transform(model, NEVER, **options)
    cached = fxcache.transform(model, EAGER, **options)
    with torch.no_grad():
        for x, t in [*sample(3), *sample(3, seed=1)]:
            assert torch.equal(call(exact, x, t), call(model, x, t))
        for run in (sample(3), sample(3, seed=1)):
            first = call(model, *run[0])
            assert torch.equal(call(cached, *run[0]), first)
            later = [call(cached, *step) for step in run[1:]]
            assert not torch.equal(later[0], call(model, *run[1]))
    assert cached.stats()["default"].hits == (False, True, True)
    return cached


class Keywords(Base):
    def forward(self, x: Tensor, **kwargs: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, kwargs["timestep"]) + kwargs["timestep"].reshape(-1, 1, 1) / 1000


def test_s8_a_timestep_in_keyword_arguments() -> None:
    two_runs(build(Keywords), lambda m, x, t: m(x, timestep=t))


def test_s8_a_forward_set_on_the_instance() -> None:
    model = build(Base)

    def run(x: Tensor, t: Tensor, gain: float = 2.0) -> Tensor:
        return Base.forward(model, x, t) * gain

    model.forward = run
    two_runs(model, lambda m, x, t: m(x, t))
    model.forward = MethodType(lambda self, sample, sigma: Base.forward(self, sample * 2, sigma), model)
    two_runs(model, lambda m, x, t: m(sample=x, sigma=t))
    model.forward = functools.partial(run, gain=3.0)
    two_runs(model, lambda m, x, t: m(x, t))


def test_s8_named_timesteps_wherever_they_are() -> None:
    class Loose(Base):
        def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:  # type: ignore[override]
            when = kwargs["when"] if kwargs else args[1]
            return super().forward(args[0], when) + when.reshape(-1, 1, 1) / 1000

    model = build(Loose)
    two_runs(model, lambda m, x, t: m(x, when=t), timestep="when")
    two_runs(model, lambda m, x, t: m(x, t), timestep="args[1]")
    with pytest.raises(NoTimestepError, match="its inputs are x, timestep"):
        fxcache.transform(build(Base), NEVER, timestep="args[1]")
    with pytest.raises(NoTimestepError):
        fxcache.transform(build(Base), NEVER, timestep="when")


def test_s8_where_there_is_none_the_warning_stays() -> None:
    class Nameless(Base):
        def forward(self, *args: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(*args)

    cached = fxcache.transform(build(Nameless), NEVER)
    with torch.no_grad(), pytest.warns(TrajectoryWarning, match="no timestep"):
        cached(*sample()[0])


def test_s8_the_name_is_looked_for_in_each_call() -> None:
    class Either(Base):
        def forward(  # type: ignore[override]
            self, x: Tensor, timestep: Tensor | None = None, sigma: Tensor | None = None
        ) -> Tensor:
            when = timestep if timestep is not None else sigma
            assert when is not None
            return super().forward(x, when) + when.reshape(-1, 1, 1) / 1000

    model = build(Either)
    two_runs(model, lambda m, x, t: m(x, timestep=t))
    two_runs(model, lambda m, x, t: m(x, sigma=t))
    two_runs(model, lambda m, x, t: m(x, None, t))


def test_s8_hooks_of_others_are_seen_through() -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module
    from diffusers.hooks import HookRegistry
    from diffusers.hooks import ModelHook as DiffusersHook

    def registered(model: nn.Module) -> None:
        HookRegistry.check_if_exists_or_initialize(model).register_hook(DiffusersHook(), "mine")

    for order in ((0, 1), (1, 0), (0,), (1,)):
        model = build(Base)
        model.forward = MethodType(lambda self, x, t: Base.forward(self, x * 2, t), model)
        for kind in order:
            if kind == 0:
                add_hook_to_module(model, ModelHook())
            else:
                registered(model)
        assert ForwardInputs.of(model).names == ("x", "t")
        two_runs(model, lambda m, x, t: m(x, t))


# ---------------------------------------------------------------------- how arguments are given


def bare(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def counting(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that sees how arguments are given."""

    @functools.wraps(function)
    def wrapper(self: Any, *args: Any, scale: float = 1.0, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs) * (scale + len(args))

    return wrapper


class Bare(Base):
    forward = bare(Base.forward)


class Counting(Base):
    forward = counting(Base.forward)


class PositionalOnly(Base):
    def forward(self, x: Tensor, timestep: Tensor, /, gain: float = 1.0, *, bias: float = 0.0) -> Tensor:  # type: ignore[override]
        return super().forward(x, timestep) * gain + bias


CALLS: dict[str, tuple[type[nn.Module], Callable[[Any, Tensor, Tensor], Tensor]]] = {
    "a decorator without wraps, by name": (Bare, lambda m, x, t: m(x=x, timestep=t)),
    "a decorator without wraps, mixed": (Bare, lambda m, x, t: m(x, timestep=t)),
    "a decorator that counts, by position": (Counting, lambda m, x, t: m(x, t)),
    "a decorator that counts, by name": (Counting, lambda m, x, t: m(x=x, timestep=t)),
    "a decorator that counts, mixed": (Counting, lambda m, x, t: m(x, timestep=t)),
    "positional only": (PositionalOnly, lambda m, x, t: m(x, t)),
    "positional only, and others": (PositionalOnly, lambda m, x, t: m(x, t, 2.0, bias=1.0)),
    "positional only, others by name": (PositionalOnly, lambda m, x, t: m(x, t, gain=2.0, bias=1.0)),
}


@pytest.mark.parametrize("case", CALLS.values(), ids=CALLS)
def test_b19_forms_of_a_forward(case: tuple[type[nn.Module], Callable[..., Tensor]]) -> None:
    two_runs(build(case[0]), case[1])


def test_b19_a_decorator_without_wraps_by_position() -> None:
    two_runs(build(Bare), lambda m, x, t: m(x, t), timestep="args[1]")


def test_b19_how_arguments_are_given_is_kept_apart() -> None:
    model = build(Counting)
    cached = fxcache.transform(model, NEVER)
    x, t = sample()[0]
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(cached(x, t), model(x, t))
            assert torch.equal(cached(x, timestep=t), model(x, timestep=t))
            assert torch.equal(cached(x=x, timestep=t), model(x=x, timestep=t))


def test_b19_a_decorator_takes_more_than_its_signature_says() -> None:
    model = build(Counting)
    cached = fxcache.transform(model, EAGER)
    with torch.no_grad():
        for call in sample(3):
            result = cached(*call, scale=2.0)
            if call is sample(3)[0]:
                assert torch.equal(result, model(*call, scale=2.0))
    assert cached.stats()["default"].hits == (False, True)  # the first call told


@pytest.mark.parametrize("policy", ["raise", "passthrough"])
@pytest.mark.parametrize(
    "kind", sweep((Base, Bare, PositionalOnly, Counting), (Bare, Counting), ids=lambda k: k.__name__)
)
def test_b19_the_models_own_type_errors(kind: type[Base], policy: str) -> None:
    x, t = sample()[0]
    model = build(kind)
    named = "args[1]" if kind is Bare else None
    cached = fxcache.transform(model, NEVER, on_unsupported=policy, timestep=named)
    bad: list[Callable[[Any], Any]] = [
        lambda m: m(x),
        lambda m: m(x, t, 1.0, 2.0, 3.0),
        lambda m: m(x, t, x=x),
        lambda m: m(x, t, nonsense=1),
        lambda m: m(),
    ]
    for call in bad:
        with pytest.raises(TypeError) as plain, torch.no_grad():
            call(model)
        with pytest.raises(TypeError) as ours, torch.no_grad():
            call(cached)
        assert str(ours.value) == str(plain.value) and type(ours.value) is TypeError
    with torch.no_grad():
        assert torch.equal(cached(x, t), model(x, t))


def test_b19_example_inputs_that_do_not_fit() -> None:
    with pytest.raises(ArgumentsError, match="missing timestep"):
        fxcache.transform(build(Base), NEVER, example_inputs={"x": torch.zeros(1, 5, WIDTH)})


@pytest.mark.parametrize("policy", ["raise", "passthrough"])
def test_b19_the_models_own_errors(policy: Any) -> None:
    class Picky(Base):
        def forward(self, x: Tensor, timestep: Tensor, kind: str = "fine") -> Tensor:
            if kind != "fine":
                raise LookupError(f"no kind {kind}")
            return super().forward(x, timestep)

    model = build(Picky)
    cached = fxcache.transform(model, NEVER, on_unsupported=policy)
    x, t = sample()[0]
    with torch.no_grad():
        with pytest.raises(LookupError, match="no kind odd"):
            cached(x, t, kind="odd")
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            cached(x[..., :3], t)
        assert torch.equal(cached(x, t), model(x, t))
    assert cached.stats()["default"].steps == 1


# ---------------------------------------------------------------------- what is no model


class Pipe:
    def __init__(self, **parts: Any) -> None:
        self.components = parts


def _function(x: Tensor, timestep: Tensor) -> Tensor:
    return x


NO_MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "path": (lambda: "black-forest-labs/FLUX.1-dev", r"the path 'black-forest.*from_pretrained"),
    "Path": (lambda: Path("/models/flux"), r"the path .*from_pretrained"),
    "module class": (lambda: Base, r"the class Base.*Base.from_pretrained"),
    "pipeline class": (
        lambda: __import__("diffusers").FluxPipeline,
        r"the class FluxPipeline.*FluxPipeline.from",
    ),
    "None": (lambda: None, "another name"),
    "function": (lambda: _function, "the function _function"),
    "lambda": (lambda: lambda x: x, "the function"),
    "number": (lambda: 3, "type int"),
    "dict": (lambda: {"transformer": build(Base)}, "type dict.*pipe.transformer"),
    "list": (lambda: [build(Base)], "type list"),
    "compiled": (lambda: torch.compile(build(Base)), "_orig_mod.*fxcache.compile"),
    "pipeline of a compiled": (
        lambda: Pipe(transformer=torch.compile(build(Base))),
        "_orig_mod.*fxcache.compile",
    ),
    "script": (lambda: torch.jit.trace(build(Base), sample()[0]), "ScriptModule"),
}


@pytest.mark.parametrize("given", NO_MODELS.values(), ids=NO_MODELS)
@pytest.mark.parametrize("policy", ["raise", "passthrough"])
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_b19_b21_what_is_no_model(given: tuple[Callable[[], Any], str], policy: Any) -> None:
    with pytest.raises(NotAModelError, match=given[1]) as error:
        fxcache.transform(given[0](), NEVER, on_unsupported=policy)
    assert isinstance(error.value, FxcacheError) and isinstance(error.value, TypeError)
    if not isinstance(given[0](), Pipe):
        with pytest.raises(NotAModelError, match=given[1]):
            fxcache.explain(given[0](), NEVER, {})


def test_b19_a_model_that_was_compiled_in_place() -> None:
    model = build(Base)
    model.compile()
    with pytest.raises(NotAModelError, match=r"compiled already.*_compiled_call_impl = None"):
        fxcache.transform(model, NEVER)
    model._compiled_call_impl = None
    fxcache.transform(model, NEVER)
