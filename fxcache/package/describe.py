"""What the manifest says of a cached model, and which models no package can hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import sympy
import torch

from ..capture.call_signature import Call, arguments_structure, flatten
from ..environment.ambient_settings import autocast
from ..environment.ignored import Ignored
from ..environment.opaque_objects import PLAIN
from ..environment.structure import Fields, Slot, Structure
from ..errors import ExportError
from ..ir.settings import set_by
from ..ir.state import StateTensor
from ..runtime.cached_transformer import CachedTransformer
from ..runtime.specialization import Specialization
from ..torch_private import PythonPrinter
from ..version import __version__
from .hardware import accelerators, hardware
from .manifest import FORMAT, Backend, Manifest, TensorEntry


def refuse_unpackable(
    cached: CachedTransformer, specialization: Specialization, call: Call, example_inputs: Mapping[str, Any]
) -> None:
    """Before anything is compiled: raises `ExportError` where a call depends on Python code beside the graph
    or is of what cannot be written down, or its state depends on values."""
    captured = specialization.program.capture
    symbols = specialization.symbols[call.key]
    tensors = (*call.tensors, *cached.original.parameters(), *cached.original.buffers())
    devices = (*(t.device for t in tensors), *(s.device for s in specialization.program.state))
    several = accelerators(map(str, devices))
    if len(several) > 1:
        why = f"it lies on {', '.join(map(str, several))}, and a package runs on one of them: move it to one"
        raise ExportError(type(cached.original).__name__, why)
    vague = [s.name for s in specialization.program.state if s.sizes(symbols) is None]
    if vague:
        why = f"the shapes of what it remembers ({', '.join(vague)}) depend on values of its inputs"
        raise ExportError(type(cached.original).__name__, why)
    if captured.values is not None:
        reads = ", ".join(captured.values.reads)
        why = f"its Python code reads values of its inputs ({reads}), which no package can check"
        raise ExportError(type(cached.original).__name__, why)
    if captured.finals:
        why = f"its forward leaves '{captured.finals[0].write.name}' written, which no package can do"
        raise ExportError(type(cached.original).__name__, why)
    if captured.written:
        names = ", ".join(captured.inputs[place] for place, _ in captured.written)
        why = f"its forward writes to its inputs ({names}), which a package must not; give it copies"
        raise ExportError(type(cached.original).__name__, why)
    if captured.effects:
        why = "its forward sets values on its modules (a LoRA scale?), which no package can do"
        raise ExportError(type(cached.original).__name__, why)
    _described(arguments_structure(cached._inputs.bind((), example_inputs)))
    _described(captured.output, cached.original)


def manifest_of(
    cached: CachedTransformer,
    specialization: Specialization,
    example_inputs: Mapping[str, Any],
    open_sizes: set[tuple[int, int]],
    backend: Backend = "inductor",
) -> Manifest:
    """What a package made for calls like `example_inputs` says of itself.

    open_sizes: (input, dimension) pairs that the compiled code keeps dynamic.
    """
    program, original = specialization.program, cached.original
    bound = cached._inputs.bind((), example_inputs)
    call = flatten(bound, original.training)
    fixed = {
        size
        for i, row in enumerate(specialization.guards.dims)
        for d, size in enumerate(row)
        if (i, d) not in open_sizes and isinstance(size, sympy.Symbol)
    }
    symbols = {s: v for s, v in specialization.symbols[call.key].items() if s in fixed}
    structure = arguments_structure(bound)
    flops = specialization.flops(call.key)
    entries = tuple(
        TensorEntry(name, _sizes(row, symbols), dtype_name(t.dtype), str(t.device))
        for name, row, t in zip(program.capture.inputs, specialization.guards.dims, call.tensors, strict=True)
    )
    state = tuple(_state_entry(set_by(s, cached.cache_config), symbols) for s in program.state)
    kinds = {torch.device(e.device).type for e in (*entries, *state)}
    return Manifest(
        format=FORMAT,
        fxcache=__version__,
        torch=torch.__version__,
        model=type(original).__name__,
        model_config=_plain(dict(getattr(original, "config", {}) or {})),
        config=cached.cache_config.to_dict(),
        notation=str(cached.cache_config),
        segments=len(program.segments),
        timestep=program.timestep,
        parameters=cached._inputs.names,
        inputs=entries,
        roles=specialization.roles,
        arguments=_described(structure),
        defaults={n: d for n, d in cached._inputs.defaults.items() if isinstance(d, PLAIN)},
        outputs=_described(program.capture.output, original),
        conditions=tuple(dict.fromkeys(_conditions(specialization, symbols))),
        state=state,
        flops=None if flops is None else {"shapes": [list(t.shape) for t in call.tensors], **asdict(flops)},
        backend=backend,
        hardware=hardware(str(t.device) for t in call.tensors) if backend == "inductor" else {},
        method=cached._inputs.method,
        autocast={kind: dtype_name(dtype) for kind, dtype in autocast() if kind in kinds},
    )


def _conditions(specialization: Specialization, symbols: Mapping[sympy.Symbol, Any]) -> Iterator[str]:
    """Guards on the dynamic sizes; those on fixed ones hold already."""
    for condition in specialization.guards.conditions:
        if isinstance(condition, sympy.Eq):
            left, right = (sympy.sympify(a).xreplace(dict(symbols)) for a in condition.args)
            if left.free_symbols or right.free_symbols:
                yield _printed(sympy.Eq(left, right, evaluate=False))
        elif getattr(condition.xreplace(dict(symbols)), "free_symbols", None):
            yield _printed(condition.xreplace(dict(symbols)))


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(fields), default=str))  # type: ignore[no-any-return]


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _printed(expression: Any) -> str:
    if isinstance(expression, sympy.Eq):  # may be unevaluated, with a plain number on one side
        left, right = (PythonPrinter().doprint(sympy.sympify(a)) for a in expression.args)
        return f"({left}) == ({right})"
    return str(PythonPrinter().doprint(sympy.sympify(expression)))


def _sizes(row: Any, symbols: Mapping[sympy.Symbol, Any]) -> tuple[int | str, ...]:
    sizes = (s.xreplace(dict(symbols)) if isinstance(s, sympy.Expr) else s for s in row)
    return tuple(int(s) if not getattr(s, "free_symbols", None) else _printed(s) for s in sizes)


def _state_entry(state: StateTensor, symbols: Mapping[sympy.Symbol, Any]) -> TensorEntry:
    initial = None if state.initial is None else [list(row) for row in state.initial]
    return TensorEntry(
        state.name, _sizes(state.shape, symbols), dtype_name(state.dtype), str(state.device), initial
    )


def _described(structure: Structure, original: torch.nn.Module | None = None) -> Any:
    """A structure as JSON: lists, mappings, plain values, and {"tensor": i} for the i-th tensor."""
    name = type(original).__name__ if original is not None else "the model"
    where = "its result" if original is not None else ""
    return _json(structure.marked(), name, where)


def _json(value: Any, model: str, where: str) -> Any:
    """where: what it is, in words; "" for the arguments of a call."""
    if isinstance(value, Slot):
        return {"tensor": value.index}
    if isinstance(value, Ignored):
        return {"ignored": True}
    if isinstance(value, Fields) and not where.startswith("its result"):
        inner = value.content.marked().items()
        return {"fields": {name: _json(v, model, f"{where}.{name}") for name, v in inner}}
    if isinstance(value, Mapping):
        kind = {} if type(value) is dict else {"class": f"{type(value).__module__}:{type(value).__name__}"}
        items = {str(k): _json(v, model, f"{where}[{k!r}]" if where else str(k)) for k, v in value.items()}
        return {"mapping": items, **kind}
    if isinstance(value, (list, tuple)):
        key = "list" if isinstance(value, list) else "tuple"
        return {key: [_json(v, model, f"{where}[{i}]") for i, v in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    called = (value.kind if isinstance(value, Fields) else type(value)).__name__
    why = f"{where} is a {called}, which cannot be written down, or compared with another process's"
    raise ExportError(model, f"{why}. Leave it out of the call, or give tensors and plain values")
