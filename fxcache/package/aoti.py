"""An AOTInductor package with the graph, the weights and the cache inside."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sympy
import torch

from ..config import CacheConfig
from ..errors import ExportError
from ..ir.real_operands import give_reals
from ..ir.settings import set_by
from ..runtime.cached_transformer import CachedTransformer
from ..runtime.specialization import Specialization
from ..torch_private import BRANCHES_MAY_WRITE, BackendCompilerFailed, aoti_write, compiler_reason
from .describe import dtype_name, manifest_of, refuse_unpackable
from .flatten import flat_graph
from .hardware import hardware
from .manifest import ENTRY, Manifest

KERNELS = (".cubin", ".fatbin", ".hsaco", ".spv")  # files of one kernel each, on CUDA, ROCm and XPU


@dataclass(frozen=True)
class Elsewhere:
    """A device of another machine. All that is on the CPU will be there.

    device: its name there, "cuda:0". built_for: for what it is compiled, as `hardware` says it. write: as
    `aoti_write`, of the program on the CPU.
    """

    device: str
    built_for: str
    write: Callable[[torch.export.ExportedProgram, Path, Mapping[str, Any]], None]

    def moved(self, manifest: Manifest) -> Manifest:
        """What a package says there that says `manifest` here."""
        inputs, state = (
            tuple(replace(e, device=self.device) for e in entries)
            for entries in (manifest.inputs, manifest.state)
        )
        kind = torch.device(self.device).type
        made_for = hardware([self.device], {kind: self.built_for})
        return replace(manifest, inputs=inputs, state=state, hardware=made_for)


def export_aoti(
    cached: CachedTransformer,
    target: Path,
    example_inputs: Mapping[str, Any],
    dynamic: bool,
    options: Mapping[str, Any],
    elsewhere: Elsewhere | None = None,
) -> Path:
    """Write the package for calls like `example_inputs`. Raises `ExportError`.

    dynamic: keep sizes dynamic where the model allows. options: inductor's configuration. elsewhere: where
    it will run, if not where the example is.
    """
    if target.suffix != ".pt2":
        raise ExportError(type(cached.original).__name__, f"the file's name must end in .pt2, not {target}")
    specialization, call = cached.specialization_for(example_inputs, numbers=False)
    refuse_unpackable(cached, specialization, call, example_inputs)
    with torch.no_grad():
        state = tuple(specialization.allocate(call, cached.cache_config).values())
        values = (*(t.detach().clone() for t in call.tensors), *state)
        exported = _export_graph(cached, specialization, values, dynamic)
        native = native_state(specialization, cached.cache_config)
        configuration = {**options, "aot_inductor.metadata": {"fxcache_state": native}}
        write = aoti_write if elsewhere is None else elsewhere.write
        try:
            write(exported, target, configuration)
        except BackendCompilerFailed as error:
            why = f"the compiler says: {compiler_reason(error)}."
            if dynamic:
                why += " dynamic=False, which fixes all sizes, asks less of it."
            if not BRANCHES_MAY_WRITE:
                why += " torch 2.12 and later compile more."
            raise ExportError(type(cached.original).__name__, why) from error
    # After compilation: what the compiler fixed by then is fixed in the package.
    open_sizes = _still_open(exported, len(call.tensors)) if dynamic else set()
    manifest = manifest_of(cached, specialization, example_inputs, open_sizes)
    if elsewhere is not None:
        manifest = elsewhere.moved(manifest)
    _add_entry(target, replace(manifest, kernels=_kernels(target)))
    return target


def _kernels(path: Path) -> int:
    """How many files of a GPU's machine code AOTInductor wrote."""
    with zipfile.ZipFile(path) as archive:
        return sum(name.endswith(KERNELS) for name in archive.namelist())


def _still_open(exported: torch.export.ExportedProgram, inputs: int) -> set[tuple[int, int]]:
    """(input, dimension) pairs that the compiled program keeps dynamic."""
    names = exported.graph_signature.user_inputs
    nodes = {n.name: n for n in exported.graph.find_nodes(op="placeholder")}
    found: set[tuple[int, int]] = set()
    for i, name in enumerate(names[:inputs]):
        sizes = nodes[str(name)].meta["val"].shape
        for d, size in enumerate(sizes):
            if isinstance(size, torch.SymInt) and size.node.expr.free_symbols:
                found.add((i, d))
    return found


def native_state(specialization: Specialization, config: CacheConfig) -> str:
    """The state tensors, with the settings of `config`, for a program without Python.

    One line each, `name dtype sizes values`.
    A size is a number, or `@i.d` for size d of input i, or what `postfix` makes of several; values are
    comma-separated, or `0`.
    """
    places: dict[Any, str] = {}
    for i, row in enumerate(specialization.guards.dims):
        for d, size in enumerate(row):
            places.setdefault(size, f"@{i}.{d}")
    for condition in specialization.guards.conditions:
        if isinstance(condition, sympy.Eq) and condition.rhs in places:
            places.setdefault(condition.lhs, places[condition.rhs])
    lines: list[str] = []
    for tensor in (set_by(tensor, config) for tensor in specialization.program.state):
        sizes = [postfix(size, places) for size in tensor.shape]
        initial = "0"
        if tensor.initial is not None:
            initial = ",".join(repr(float(v)) for row in tensor.initial for v in row)
        lines.append(f"{tensor.name} {dtype_name(tensor.dtype)} {','.join(sizes)} {initial}")
    return "\n".join(lines)


OPERATIONS = {
    "Add": "+",
    "Mul": "*",
    "FloorDiv": "/",
    "CleanDiv": "/",
    "Mod": "%",
    "Max": "max",
    "Min": "min",
}


def postfix(size: Any, places: Mapping[Any, str]) -> str:
    """A size as a stack machine reads it: operands, then the operation, with colons between (`@0.1:@2.1:+`).

    places: what symbols are written as. What has no such form is written as it prints.
    """
    if isinstance(size, int) or getattr(size, "is_Integer", False):
        return str(int(size))
    if size in places:
        return places[size]
    operation = OPERATIONS.get(type(size).__name__)
    if operation is None:
        return str(size).replace(" ", "")
    first, *others = (postfix(argument, places) for argument in size.args)
    return ":".join([first, *(f"{other}:{operation}" for other in others)])


def _export_graph(
    cached: CachedTransformer, specialization: Specialization, values: tuple[torch.Tensor, ...], dynamic: bool
) -> torch.export.ExportedProgram:
    graph = flat_graph(specialization.program, values, dynamic)
    shapes: Any = None
    if dynamic:
        shapes = {"values": tuple(_open_sizes(specialization, i, v) for i, v in enumerate(values))}
    try:
        # strict: non-strict tracing leaves the weights inside the branches unlifted
        exported = torch.export.export(_Positional(graph), values, dynamic_shapes=shapes, strict=True)
    except Exception as error:
        why = f"torch.export says: {str(error).strip().splitlines()[0]}"
        raise ExportError(type(cached.original).__name__, why) from error
    give_reals(exported.graph_module, "val")
    return exported


class _Positional(torch.nn.Module):
    """The outer graph taking its inputs and state as one list of positional arguments."""

    def __init__(self, graph: torch.fx.GraphModule) -> None:
        super().__init__()
        self.cached = graph  # `graph` is taken: the exported module is a GraphModule

    def forward(self, *values: torch.Tensor) -> Any:
        return self.cached(*values)


def _open_sizes(specialization: Specialization, index: int, value: torch.Tensor) -> dict[int, Any] | None:
    """Which sizes of an input or a state tensor stay open."""
    inputs = specialization.guards.dims
    if index < len(inputs):
        free = {d for i, d in specialization.guards.open_dims() if i == index}
    else:
        state = specialization.program.state[index - len(inputs)]
        free = {d for d, size in enumerate(state.shape) if isinstance(size, sympy.Expr) and size.free_symbols}
    return {d: torch.export.Dim.AUTO for d in sorted(free)} or None


def _add_entry(path: Path, manifest: Manifest) -> None:
    """Put the manifest beside what AOTInductor wrote, under the archive's own root folder."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        root = archive.namelist()[0].split("/", 1)[0]
        archive.writestr(f"{root}/{ENTRY}", manifest.to_json())
