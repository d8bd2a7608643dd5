"""A package of engines: a zip of the manifest, each stage's plan, its engine and what runs before it.

    fxcache.json                 what the package is, as AOTInductor packages have it
    stages/NAME/plan.json        pieces in order, names of what they take and give, the effects
    stages/NAME/engine.trt       the serialized engine, as TensorRT's own tools read it
    stages/NAME/before.pt2       bookkeeping and float64, a `torch.export` file
    engines.json                 what built the engines, for which range of sizes; names of inputs and state

Reading one runs no code of the file but engines and exported graphs of ATen operators: effects are
named, and only the four of `EFFECTS` can be.
"""

from __future__ import annotations

import functools
import importlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

from ...errors import BackendError, EngineRangeError, PackageError
from ...ops.clock import commit_hit, commit_miss, log_step
from ...ops.cond import store
from ...ops.history import remember
from ...package.describe import manifest_of, refuse_unpackable
from ...package.manifest import ENTRY, read_manifest
from ...package.packaged_transformer import PackagedTransformer
from ...runtime.cached_transformer import CachedTransformer
from .available import require_gpu, require_known, require_torch_tensorrt
from .compiling import flat_names, prepare_all
from .lowering import engines_in, lower_stage, require_full
from .options import TensorRTOptions
from .prepare import Prepared, export
from .runner import EngineSet, HostRunner, StageRunner
from .shape_ranges import Shape, Sizes, Spec, specs_of
from .split_bookkeeping import Piece

ROOT, ENGINES = "fxcache", "engines.json"
# All that a stage may do beside its engine; a package names these and no others.
EFFECTS: Mapping[str, Callable[..., Any]] = {
    f.__name__: f for f in (store, remember, log_step, commit_hit, commit_miss)
}
Bindings = tuple[bytes, tuple[str, ...], tuple[str, ...]]


def write_package(
    cached: CachedTransformer, path: Path, example_inputs: Mapping[str, Any], options: TensorRTOptions
) -> Path:
    """Build the engines for `example_inputs` and write the package. Raises as `export_tensorrt`."""
    if path.suffix != ".zip":
        raise BackendError(f"the path of an exported package of engines, {str(path)!r},", "end in .zip")
    require_known(require_torch_tensorrt(), options.extra)
    specialization, call = cached.specialization_for(example_inputs, numbers=False)
    refuse_unpackable(cached, specialization, call, example_inputs)
    program = specialization.program
    sizes, stages = prepare_all(program, [tuple(t.shape) for t in call.tensors], options)
    specs = specs_of(program, sizes)
    settings = options.settings()
    for stage in stages:  # of every stage before any is built
        require_full(lower_stage(stage, settings, dry=True)[1])
    manifest = manifest_of(cached, specialization, example_inputs, _open_sizes(sizes), backend="tensorrt")
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(f"{ROOT}/{ENTRY}", manifest.to_json())
            names = {"inputs": flat_names(program), "state": [s.name for s in program.state]}
            described = asdict(sizes) | names | {"builder": _builder()}
            archive.writestr(f"{ROOT}/{ENGINES}", json.dumps(described))
            for stage in stages:
                _write_stage(archive, stage, specs, settings)
    except BaseException:
        path.unlink(missing_ok=True)  # half a package is none
        raise
    return path


def _builder() -> str:
    """Engines run where they were built: by the same TensorRT or TensorRT-RTX, told apart by version."""
    return f"TensorRT {importlib.import_module('tensorrt').__version__}"


def _open_sizes(sizes: Sizes) -> set[tuple[int, int]]:
    """(input, dimension) pairs that the engines keep dynamic."""
    rows = zip(sizes.low, sizes.high, strict=True)
    return {(i, d) for i, (low, high) in enumerate(rows) for d in range(len(low)) if low[d] != high[d]}


def _write_stage(
    archive: zipfile.ZipFile, stage: Prepared, specs: Mapping[str, Spec], settings: Mapping[str, Any]
) -> None:
    folder = f"{ROOT}/stages/{stage.name}"
    pieces: list[dict[str, Any]] = []
    for piece in stage.pieces:
        entry: dict[str, Any] = {"place": piece.place, "inputs": piece.inputs, "outputs": piece.outputs}
        if piece.place == "engine":
            serialized, takes, gives = _engine(stage, settings)
            archive.writestr(f"{folder}/engine.trt", serialized)
            entry |= {"takes": takes, "gives": gives}
        elif piece.place == "effects":
            entry["effects"] = [_described(n) for n in piece.graph.graph.nodes if n.op == "call_function"]
        elif piece.place == "after":
            raise BackendError(
                f"stage '{stage.name}' of a package of engines", "compute no float64 behind its engine"
            )
        else:
            buffer = io.BytesIO()
            torch.export.save(export(piece.graph, [specs[n] for n in piece.inputs], stage.name), buffer)
            archive.writestr(f"{folder}/{piece.place}.pt2", buffer.getvalue())
        pieces.append(entry)
    plan = {"inputs": stage.inputs, "outputs": stage.outputs, "found": stage.found, "pieces": pieces}
    archive.writestr(f"{folder}/plan.json", json.dumps(plan, indent=1))


def _engine(stage: Prepared, settings: Mapping[str, Any]) -> Bindings:
    """The engine of a stage, and which of its bindings take and give the piece's values, in order."""
    lowered, coverage = lower_stage(stage, settings, dry=False)
    require_full(coverage)
    ((name, module),) = engines_in(lowered).items()
    assert lowered is not None
    engine: Any = module
    (call,) = [n for n in lowered.graph.nodes if n.op == "call_module" and n.target == name]
    binding_of = dict(zip(call.args, engine.input_binding_names, strict=True))
    takes = [binding_of.get(p, "") for p in lowered.graph.nodes if p.op == "placeholder"]
    results: Any = lowered.graph.output_node().args[0]
    gives = [_given(r, call, engine.output_binding_names) for r in results]
    return engine.serialized_engine, tuple(takes), tuple(gives)


def _given(result: Node, call: Node, bindings: Sequence[str]) -> str:
    if result is call:
        return bindings[0]
    if result.op == "call_function" and result.args[0] is call:
        return bindings[result.args[1]]  # type: ignore[index]
    raise BackendError("a package of engines", f"have every output made by an engine; '{result}' is not")


def _described(node: Node) -> dict[str, Any]:
    target: Any = node.target
    arguments = [{"value": int(a.name.split("_")[-1])} if isinstance(a, Node) else a for a in node.args]
    return {"function": target.__name__, "arguments": arguments}


# ------------------------------------------------------------------------------------- reading


def read_package(
    path: Path, max_contexts: int, again: functools.partial[PackagedTransformer]
) -> PackagedTransformer:
    """Load a package; `again` does so another time.

    Raises `PackageError`, `TensorRTMissingError` and `TensorRTDeviceError`.
    """
    manifest = read_manifest(path)
    if manifest.backend != "tensorrt":
        raise PackageError(path, f"it is a package for {manifest.backend}", "load it with fxcache.load()")
    package = require_torch_tensorrt()
    with zipfile.ZipFile(path) as archive:
        fields = json.loads(archive.read(f"{ROOT}/{ENGINES}"))
        _check_builder(path, fields["builder"])
        require_gpu(())
        names = sorted(n.split("/")[2] for n in archive.namelist() if n.endswith("/plan.json"))
        stages = {name: _read_stage(archive, name, package, path) for name in names}
    sizes = Sizes(*(tuple(tuple(s) for s in fields[end]) for end in ("low", "usual", "high")))

    def refuse(shapes: Sequence[Shape]) -> EngineSet:
        raise EngineRangeError(f"inputs of shapes {list(shapes)}", "the package holds engines for others")

    runner = HostRunner(fields["inputs"], fields["state"], manifest.segments, refuse)
    runner.sets.append(EngineSet(sizes, stages, {}))
    return PackagedTransformer(manifest, runner, max_contexts, again)


def _check_builder(path: Path, builder: str) -> None:
    if builder != _builder():
        what = f"its engines were built by {builder} and this is {_builder()}"
        raise PackageError(path, what, "export it again here, or install what built it")


def _read_stage(archive: zipfile.ZipFile, name: str, package: Any, path: Path) -> StageRunner:
    folder = f"{ROOT}/stages/{name}"
    plan = json.loads(archive.read(f"{folder}/plan.json"))
    pieces: list[Piece] = []
    engine: Callable[..., Any] | None = None
    for entry in plan["pieces"]:
        place = entry["place"]
        if place == "engine":
            serialized = archive.read(f"{folder}/engine.trt")
            engine = _bound(package, name, serialized, entry["takes"], entry["gives"])
            graph = _nothing()
        elif place == "effects":
            graph = _effects(entry["effects"], len(entry["inputs"]), path)
        else:
            exported = torch.export.load(io.BytesIO(archive.read(f"{folder}/{place}.pt2")))
            graph = exported.module(check_guards=False)  # type: ignore[assignment]
        pieces.append(Piece(place, graph, tuple(entry["inputs"]), tuple(entry["outputs"])))
    fields = {key: tuple(plan[key]) for key in ("inputs", "outputs", "found")}
    prepared = Prepared(name, fields["inputs"], fields["outputs"], fields["found"], tuple(pieces), {}, None)
    return StageRunner(prepared, engine)


class BoundEngine:
    """An engine as a function of a piece's values.

    module: runs the engine. takes: the binding of each value, "" for one that the engine does not use.
    gives: the binding of each result; two results may be one.
    """

    def __init__(self, module: Any, takes: Sequence[str], gives: Sequence[str]) -> None:
        self.module = module
        self._used = [i for i, binding in enumerate(takes) if binding]
        self._places = [list(dict.fromkeys(gives)).index(binding) for binding in gives]

    def __call__(self, *values: Any) -> list[Any]:
        results = self.module(*[values[i] for i in self._used])
        items = results if isinstance(results, (tuple, list)) else (results,)
        return [items[place] for place in self._places]


def _bound(package: Any, name: str, serialized: bytes, takes: list[str], gives: list[str]) -> BoundEngine:
    module = package.runtime.TorchTensorRTModule(
        serialized,
        [binding for binding in takes if binding],
        list(dict.fromkeys(gives)),
        name=name,
        settings=package.dynamo.CompilationSettings(),
    )
    return BoundEngine(module, takes, gives)


def _nothing() -> GraphModule:
    graph = Graph()
    graph.output(())
    return GraphModule(nn.Module(), graph)


def _effects(effects: Sequence[Mapping[str, Any]], count: int, path: Path) -> GraphModule:
    graph = Graph()
    values = [graph.placeholder(f"value_{i}") for i in range(count)]
    for effect in effects:
        function = EFFECTS.get(str(effect["function"]))
        if function is None:
            raise PackageError(path, f"it names the function {effect['function']}", "export it again")
        arguments = [values[a["value"]] if isinstance(a, dict) else a for a in effect["arguments"]]
        graph.call_function(function, tuple(arguments))
    graph.output(())
    return GraphModule(nn.Module(), graph, class_name="Effects")
