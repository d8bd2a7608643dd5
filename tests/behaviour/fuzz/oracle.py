"""Plain against transformed: the same calls, the same changes from outside, equal models."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

import fxcache
from fxcache import FxcacheError

from .calls import Step, around, steps
from .models import build
from .pythonstate import python_state
from .reference import HandReference
from .spec import Spec
from .states import SETTINGS

UNCACHED = "F1B0_W0M0MC0_T0O1_R0"
CACHED = "F1B0_W2M0MC0_T0O1_R1000"  # every step but a trajectory's first two may be a hit
UNJUDGED = ("block_counter",)  # a block that is skipped does not count
TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-5, torch.bfloat16: 5e-2}


class Fault(AssertionError):
    """A transformed model is not the plain one."""


def check(spec: Spec, tally: Counter[str] | None = None) -> None:
    """Everything that must hold of the model of `spec`. Raises `Fault`."""
    tally = Counter() if tally is None else tally
    tally["models"] += 1
    with _quiet():
        refused = _uncached(spec, tally)
        if refused:
            _passthrough(spec)
        elif spec.state not in UNJUDGED:
            _cached(spec, tally)


def compare_plain(spec: Spec) -> None:
    """Of the generator: two models of one spec, neither transformed, run and do the same."""
    one, other = build(spec), build(spec)
    with _quiet():
        for number, (step, theirs) in enumerate(zip(steps(spec), steps(spec), strict=True)):
            _change(step, one)
            _change(theirs, other)
            expected, error = _call(spec, one, step)
            found, _ = _call(spec, other, theirs)
            if error is not None:
                raise error
            _equal(found, expected, f"call {number}")
            _same(
                python_state((one, step.arguments)), python_state((other, theirs.arguments)), f"call {number}"
            )


def _uncached(spec: Spec, tally: Counter[str]) -> bool:
    """With nothing cached every call is the plain model's, or refused and nothing was touched."""
    plain, other = build(spec), build(spec)
    cached = fxcache.transform(other, UNCACHED)
    refused = False
    for number, (step, theirs) in enumerate(zip(steps(spec), steps(spec), strict=True)):
        _change(step, plain)
        _change(theirs, other)
        before = python_state((other, theirs.arguments))
        SETTINGS["count"] = 0
        expected, error = _call(spec, plain, step)
        counted, SETTINGS["count"] = SETTINGS["count"], 0
        found, foreign = _call(spec, cached, theirs)
        if error is None and foreign is None and SETTINGS["count"] != counted:
            raise Fault(f"call {number} counted {SETTINGS['count']} in a global, the plain model {counted}")
        if isinstance(foreign, FxcacheError):
            refused = True
            tally[f"refused: {type(foreign).__name__}: {_reason(foreign)}"] += 1
            _same(before, python_state((other, theirs.arguments)), f"call {number}, refused")
            found, foreign = _call(spec, other, theirs)
        if error is not None or foreign is not None:
            if type(error) is not type(foreign):
                raise Fault(f"call {number} raises {foreign!r}; the plain model {error!r}") from foreign
            tally["the model's own error"] += 1
            return refused
        _equal(found, expected, f"call {number}")
        _same(
            python_state((plain, step.arguments)),
            python_state((other, theirs.arguments)),
            f"after call {number}",
        )
    tally["uncached, equal"] += not refused
    return refused


def _passthrough(spec: Spec) -> None:
    """What is refused runs with `on_unsupported="passthrough"` as the plain model."""
    plain, other = build(spec), build(spec)
    cached = fxcache.transform(other, UNCACHED, on_unsupported="passthrough")
    for number, (step, theirs) in enumerate(zip(steps(spec), steps(spec), strict=True)):
        _change(step, plain)
        _change(theirs, other)
        expected, error = _call(spec, plain, step)
        found, foreign = _call(spec, cached, theirs)
        if error is not None or foreign is not None:
            if type(error) is not type(foreign):
                raise Fault(f"passthrough, call {number} raises {foreign!r}; plain {error!r}") from foreign
            return
        _equal(found, expected, f"passthrough, call {number}")
        _same(python_state(plain), python_state(other), f"passthrough, after call {number}")


def _cached(spec: Spec, tally: Counter[str]) -> None:
    """A hit is what the reference says, and every other step the plain model's."""
    plain, other = build(spec), build(spec)
    cached = fxcache.transform(other, CACHED)
    references: dict[Any, HandReference] = {}
    hits = 0
    for number, (step, theirs) in enumerate(zip(steps(spec), steps(spec), strict=True)):
        _change(step, plain)
        _change(theirs, other)
        _as_written(step.arguments, theirs.arguments)
        kind = (step.trajectory, step.sizes, plain.training)
        reference = references.setdefault(kind, HandReference(spec))
        found, error = _call(spec, cached, theirs)
        if isinstance(error, FxcacheError):
            tally[f"refused when cached: {type(error).__name__}: {_reason(error)}"] += 1
            return
        if error is not None:
            if type(_call(spec, plain, step)[1]) is not type(error):
                raise Fault(f"cached, call {number} raises {error!r}") from error
            return  # the model's own
        hit = _was_hit(cached, step.trajectory if spec.named else "default")
        with around(spec):
            if hit:
                hits += 1
                expected = reference.hit(plain, step.arguments)
            else:
                reference.compute(plain, step.arguments)
        computed, _ = _call(spec, plain, step)
        if hit:
            _near(found, expected, f"hit at call {number}")
        else:
            _equal(found, computed, f"cached, computed call {number}")
    tally["cached, equal"] += 1
    tally["hits"] += hits


def _as_written(arguments: dict[str, Any], theirs: dict[str, Any]) -> None:
    """What a hit wrote to the caller's tensors is an approximation that later steps start from."""
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            value.copy_(theirs[name])


def _was_hit(cached: Any, name: str) -> bool:
    context = cached.stats().contexts.get(name)
    return bool(context is not None and context.hits and context.hits[-1])


def _call(spec: Spec, model: nn.Module, step: Step) -> tuple[Any, Exception | None]:
    try:
        args, kwargs = step.given()
        named = spec.named and hasattr(model, "cache_context")
        context = model.cache_context(step.trajectory) if named else nullcontext()
        torch.manual_seed(0)
        with around(spec), context:
            return model(*args, **kwargs), None
    except Exception as error:  # to be compared with the other's
        return None, error


def _change(step: Step, model: nn.Module) -> None:
    if step.change is not None:
        with torch.no_grad():
            step.change(model)


def _equal(found: Tensor, expected: Tensor, where: str) -> None:
    if found.dtype != expected.dtype or found.shape != expected.shape or not torch.equal(found, expected):
        raise Fault(f"{where}: differs from the plain model{_by_how_much(found, expected)}")


def _near(found: Tensor, expected: Tensor, where: str) -> None:
    if found.dtype != expected.dtype or found.shape != expected.shape:
        raise Fault(f"{where}: {found.dtype} {found.shape}, the reference {expected.dtype} {expected.shape}")
    scale = max(1.0, float(expected.abs().max()))
    if not float((found.double() - expected.double()).abs().max()) <= TOLERANCE[found.dtype] * scale:
        raise Fault(f"{where}: differs from the reference{_by_how_much(found, expected)}")


def _by_how_much(found: Tensor, expected: Tensor) -> str:
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return f": {found.dtype} {tuple(found.shape)}, not {expected.dtype} {tuple(expected.shape)}"
    return f" by {float((found.double() - expected.double()).abs().max()):.3g}"


def _same(expected: dict[str, Any], found: dict[str, Any], when: str) -> None:
    names = [n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n)]
    if names:
        shown = "; ".join(
            f"{n}: {expected.get(n)!s:.60} became {found.get(n)!s:.60}" for n in sorted(names)[:3]
        )
        raise Fault(f"Python state {when}: {shown}")


def _reason(error: FxcacheError) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return (lines[1] if len(lines) > 1 else lines[0])[:110]


@contextmanager
def _quiet() -> Iterator[None]:
    """Warnings are errors, but for those that fxcache gives on purpose and those of torch's."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", kind)
        for kind in (fxcache.errors.PassthroughWarning, fxcache.errors.TrajectoryWarning):
            warnings.simplefilter("ignore", kind)
        warnings.filterwarnings("ignore", "In CPU autocast")
        yield
