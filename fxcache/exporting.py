"""`fxcache.export`: an AOTInductor package with the graph, the weights and the cache inside."""

from __future__ import annotations

import inspect
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sympy
import torch
from torch.utils import _pytree as pytree
from torch.utils._sympy.printers import PythonPrinter

from .ambient import autocast
from .cached import CachedTransformer
from .errors import ExportError
from .flattening import flat_graph
from .hardware import hardware
from .manifest import ENTRY, FORMAT, Backend, Manifest, TensorEntry
from .opaque import PLAIN
from .packagecall import plain
from .signature import Call, arguments_structure, flatten
from .spelling import require_known
from .state import StateTensor
from .structure import Slot, Structure
from .subjects import require_cached
from .variants import Variant


def export(
    cached: CachedTransformer,
    path: str | Path,
    example_inputs: Mapping[str, Any],
    *,
    dynamic: bool = True,
    backend: str = "inductor",
    **options: Any,
) -> Path:
    """Write a package that runs without the model's Python code.

    Args:
        cached: what `fxcache.transform` gave.
        path: file to write, ending in `.pt2`, or in `.zip` for engines.
        example_inputs: keyword arguments of a call such as will be made; tensors fix dtypes, devices and,
            where the model does not leave them open, sizes. Everything else is fixed.
        dynamic: leave sizes open where the model allows.
        backend: "inductor", or "tensorrt" for engines by stage.
        options: further options of the compiler (inductor's configuration).

    Returns:
        The path. The file holds native code: load only files that you trust.

    Raises:
        ExportError: the graph or its state depends on values of its inputs, or cannot be exported.
        BackendError: `cached` is no cached model. PackageUseError: it is a loaded package.
    """
    require_cached(cached, "export")
    # Compiled code reads memory as the example's was laid out; a loaded package hands it plain tensors.
    example_inputs = pytree.tree_map_only(torch.Tensor, plain, dict(example_inputs))
    if backend == "tensorrt":
        from .backends.tensorrt import export_tensorrt

        return Path(export_tensorrt(cached, path, example_inputs, dynamic=dynamic, **options))
    known = (*(n for n in inspect.signature(export).parameters if n != "options"), *inductor_options())
    require_known("fxcache.export()", options, known)
    target = Path(path)
    if target.suffix != ".pt2":
        raise ExportError(type(cached.original).__name__, f"the file's name must end in .pt2, not {target}")
    variant, call = cached.variant_for(example_inputs, numbers=False)
    refuse_unpackable(cached, variant, call)
    with torch.no_grad():
        state = tuple(variant.allocate(call).values())
        values = (*(t.detach().clone() for t in call.tensors), *state)
        exported = _export_graph(cached, variant, values, dynamic)
        configuration = {**options, "aot_inductor.metadata": {"fxcache_state": native_state(variant)}}
        torch._inductor.aoti_compile_and_package(
            exported, package_path=str(target), inductor_configs=configuration
        )
    # After compilation: what the compiler fixed by then is fixed in the package.
    open_sizes = _still_open(exported, len(call.tensors)) if dynamic else set()
    manifest = manifest_of(cached, variant, example_inputs, open_sizes)
    _add_entry(target, manifest.to_json())
    return target


def inductor_options() -> tuple[str, ...]:
    """The names of the compiler's settings."""
    return tuple(torch._inductor.config.get_config_copy())


def refuse_unpackable(cached: CachedTransformer, variant: Variant, call: Call) -> None:
    """Raises `ExportError` where a call depends on Python code beside the graph, or its state on values."""
    captured = variant.program.capture
    symbols = variant.symbols[call.key]
    vague = [s.name for s in variant.program.state if s.sizes(symbols) is None]
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


def _still_open(exported: torch.export.ExportedProgram, inputs: int) -> set[tuple[int, int]]:
    """(input, dimension) pairs that the compiled program leaves open."""
    names = exported.graph_signature.user_inputs
    nodes = {n.name: n for n in exported.graph.find_nodes(op="placeholder")}
    found: set[tuple[int, int]] = set()
    for i, name in enumerate(names[:inputs]):
        sizes = nodes[str(name)].meta["val"].shape
        for d, size in enumerate(sizes):
            if isinstance(size, torch.SymInt) and size.node.expr.free_symbols:
                found.add((i, d))
    return found


def native_state(variant: Variant) -> str:
    """The state tensors for a program without Python: one line each, `name dtype sizes values`.

    A size is a number, or `@i.d` for size d of input i; values are comma-separated, or `0`.
    """
    places: dict[Any, str] = {}
    for i, row in enumerate(variant.guards.dims):
        for d, size in enumerate(row):
            places.setdefault(size, f"@{i}.{d}")
    equal = {c.lhs: c.rhs for c in variant.guards.conditions if isinstance(c, sympy.Eq)}
    lines: list[str] = []
    for tensor in variant.program.state:
        sizes: list[str] = []
        for size in tensor.shape:
            known = (
                size if not isinstance(size, sympy.Expr) else places.get(size, places.get(equal.get(size)))
            )
            sizes.append(str(known if known is not None else size).replace(" ", ""))
        initial = "0"
        if tensor.initial is not None:
            initial = ",".join(repr(float(v)) for row in tensor.initial for v in row)
        lines.append(f"{tensor.name} {_dtype(tensor.dtype)} {','.join(sizes)} {initial}")
    return "\n".join(lines)


def _export_graph(
    cached: CachedTransformer, variant: Variant, values: tuple[torch.Tensor, ...], dynamic: bool
) -> torch.export.ExportedProgram:
    graph = flat_graph(variant.program, values, dynamic)
    shapes: Any = None
    if dynamic:
        shapes = {"values": tuple(_open_sizes(variant, i, v) for i, v in enumerate(values))}
    try:
        # strict: non-strict tracing leaves the weights inside the branches unlifted
        return torch.export.export(_Positional(graph), values, dynamic_shapes=shapes, strict=True)
    except Exception as error:
        why = f"torch.export says: {str(error).strip().splitlines()[0]}"
        raise ExportError(type(cached.original).__name__, why) from error


class _Positional(torch.nn.Module):
    """The outer graph taking its inputs and state as one list of positional arguments."""

    def __init__(self, graph: torch.fx.GraphModule) -> None:
        super().__init__()
        self.cached = graph  # `graph` is taken: the exported module is a GraphModule

    def forward(self, *values: torch.Tensor) -> Any:
        return self.cached(*values)


def _open_sizes(variant: Variant, index: int, value: torch.Tensor) -> dict[int, Any] | None:
    """Which sizes of an input or a state tensor stay open."""
    inputs = variant.guards.dims
    if index < len(inputs):
        free = {d for i, d in variant.guards.open_dims() if i == index}
    else:
        state = variant.program.state[index - len(inputs)]
        free = {d for d, size in enumerate(state.shape) if isinstance(size, sympy.Expr) and size.free_symbols}
    return {d: torch.export.Dim.AUTO for d in sorted(free)} or None


def manifest_of(
    cached: CachedTransformer,
    variant: Variant,
    example_inputs: Mapping[str, Any],
    open_sizes: set[tuple[int, int]],
    backend: Backend = "inductor",
) -> Manifest:
    """What a package made for calls like `example_inputs` says of itself.

    open_sizes: (input, dimension) pairs that the compiled code leaves open.
    """
    from . import __version__

    program, original = variant.program, cached.original
    bound = cached._inputs.bind((), example_inputs)
    call = flatten(bound, original.training)
    fixed = {
        size
        for i, row in enumerate(variant.guards.dims)
        for d, size in enumerate(row)
        if (i, d) not in open_sizes and isinstance(size, sympy.Symbol)
    }
    symbols = {s: v for s, v in variant.symbols[call.key].items() if s in fixed}
    structure = arguments_structure(bound)
    flops = variant.flops(call.key)
    entries = tuple(
        TensorEntry(name, _sizes(row, symbols), _dtype(t.dtype), str(t.device))
        for name, row, t in zip(program.capture.inputs, variant.guards.dims, call.tensors, strict=True)
    )
    state = tuple(_state_entry(s, symbols) for s in program.state)
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
        roles=variant.roles,
        arguments=_described(structure),
        defaults={n: d for n, d in cached._inputs.defaults.items() if isinstance(d, PLAIN)},
        outputs=_described(program.capture.output, original),
        conditions=tuple(dict.fromkeys(_conditions(variant, symbols))),
        state=state,
        flops=None if flops is None else {"shapes": [list(t.shape) for t in call.tensors], **asdict(flops)},
        backend=backend,
        hardware=hardware(str(t.device) for t in call.tensors) if backend == "inductor" else {},
        autocast={kind: _dtype(dtype) for kind, dtype in autocast() if kind in kinds},
    )


def _conditions(variant: Variant, symbols: Mapping[sympy.Symbol, Any]) -> Iterator[str]:
    """Guards on the open sizes; those on fixed ones hold already."""
    for condition in variant.guards.conditions:
        if isinstance(condition, sympy.Eq):
            left, right = (sympy.sympify(a).xreplace(dict(symbols)) for a in condition.args)
            if left.free_symbols or right.free_symbols:
                yield _printed(sympy.Eq(left, right, evaluate=False))
        elif getattr(condition.xreplace(dict(symbols)), "free_symbols", None):
            yield _printed(condition.xreplace(dict(symbols)))


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(fields), default=str))  # type: ignore[no-any-return]


def _dtype(dtype: torch.dtype) -> str:
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
        state.name, _sizes(state.shape, symbols), _dtype(state.dtype), str(state.device), initial
    )


def _described(structure: Structure, original: torch.nn.Module | None = None) -> Any:
    """A structure as JSON: lists, mappings, plain values, and {"tensor": i} for the i-th tensor."""
    tree = pytree.tree_unflatten(structure.constants, structure.spec)
    name = type(original).__name__ if original is not None else "the model"
    return _json(tree, name)


def _json(value: Any, model: str) -> Any:
    if isinstance(value, Slot):
        return {"tensor": value.index}
    if isinstance(value, Mapping):
        kind = {} if type(value) is dict else {"class": f"{type(value).__module__}:{type(value).__name__}"}
        return {"mapping": {str(k): _json(v, model) for k, v in value.items()}, **kind}
    if isinstance(value, (list, tuple)):
        key = "list" if isinstance(value, list) else "tuple"
        return {key: [_json(v, model) for v in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise ExportError(model, f"a {type(value).__name__} among its inputs or outputs cannot be written down")


def _add_entry(path: Path, text: str) -> None:
    """Put the manifest beside what AOTInductor wrote, under the archive's own root folder."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        root = archive.namelist()[0].split("/", 1)[0]
        archive.writestr(f"{root}/{ENTRY}", text)
