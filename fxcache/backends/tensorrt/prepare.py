"""Prepare a stage for TensorRT: pieces to run in order, one of them the engine's.

before   bookkeeping and float64 of the stage's inputs   PyTorch
engine   everything else that computes                   TensorRT
after    float64 that needs the engine                   PyTorch
effects  writes to the state                             PyTorch
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from ...environment.trace_sandbox import pristine
from ...errors import EngineRangeError
from ...ir.program import Program
from ...ir.stage import Stage
from ...torch_private import FakeTensorMode
from .autocast import cast_products
from .shape_ranges import Spec, spec
from .split_bookkeeping import Piece, split_bookkeeping
from .split_side_effects import split_side_effects


@dataclass(frozen=True)
class Prepared:
    """A stage as pieces over named values.

    inputs, outputs: as the program names them. found: under which name each output is to be found
    (an input that is passed on keeps its name). specs: of every value that enters the engine.
    exported: the engine's piece, exported for the sizes in `specs`; None where nothing is left for it.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    found: tuple[str, ...]
    pieces: tuple[Piece, ...]
    specs: Mapping[str, Spec]
    exported: ExportedProgram | None

    @property
    def engine(self) -> Piece | None:
        return next((p for p in self.pieces if p.place == "engine"), None)


def prepare(
    program: Program, stage: Stage, specs: Mapping[str, Spec], cast: torch.dtype | None = None
) -> Prepared:
    """Cut, export and split `stage` for the sizes in `specs`; its products computed in `cast`."""
    pure = split_side_effects(stage)
    with pristine(program.capture.model), torch.no_grad():
        exported = export(pure.graph, [specs[n] for n in pure.inputs], stage.name)
    atoms = exported.run_decompositions({}).module(check_guards=False)
    pieces, found = split_bookkeeping(atoms, pure.inputs, pure.outputs, stage.name)
    known = _known(pieces, specs)
    engine = next((p for p in pieces if p.place == "engine"), None)
    again = None
    if engine is not None:
        if cast is not None:
            cast_products(engine.graph, cast)
        with torch.no_grad():
            again = export(engine.graph, [known[n] for n in engine.inputs], stage.name)
    renamed = dict(zip(pure.outputs, found, strict=True))
    if pure.effects is not None:
        needs = tuple(renamed.get(n, n) for n in pure.needs)
        pieces.append(Piece("effects", pure.effects, needs, ()))
    wanted = tuple(renamed[n] for n in stage.outputs)
    entering = {n: known[n] for n in engine.inputs} if engine is not None else {}
    return Prepared(stage.name, stage.inputs, stage.outputs, wanted, tuple(pieces), entering, again)


def export(graph: GraphModule, specs: Sequence[Spec], where: str) -> ExportedProgram:
    """`torch.export` with the ranges of `specs`. Raises `EngineRangeError` where a size gets fixed."""
    examples = tuple(s.example() for s in specs)
    dims = tuple({d: Dim.AUTO(min=low, max=high) for d, (low, high) in s.open_dims().items()} for s in specs)
    shapes = tuple(d if isinstance(e, torch.Tensor) else None for d, e in zip(dims, examples, strict=True))
    dynamic = shapes if any(dims) else None
    exported = torch.export.export(graph, examples, dynamic_shapes=dynamic, strict=False)
    _check_open(exported, dims, where)
    return exported


def _check_open(exported: ExportedProgram, dims: Sequence[Mapping[int, Any]], where: str) -> None:
    user = set(exported.graph_signature.user_inputs)
    nodes = [n for n in exported.graph.find_nodes(op="placeholder") if n.name in user]
    for node, wanted in zip(nodes, dims, strict=True):
        for dim in wanted:
            size = node.meta["val"].shape[dim]
            if isinstance(size, int):
                what = f"stage '{where}', dimension {dim} of '{node.name}'"
                raise EngineRangeError(what, f"the model's code holds for size {size} only")


def _known(pieces: Sequence[Piece], specs: Mapping[str, Spec]) -> dict[str, Spec]:
    """`specs`, and those of what is computed before the engine."""
    known = dict(specs)
    for piece in pieces:
        if piece.place != "before":
            continue
        results = [_fake_run(piece, known, end) for end in ("low", "usual", "high")]
        known.update({n: spec(*(r[i] for r in results)) for i, n in enumerate(piece.outputs)})
    return known


def _fake_run(piece: Piece, known: Mapping[str, Spec], end: str) -> tuple[Any, ...]:
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        values = [
            s.number if s.dtype is None else torch.empty(getattr(s, end), dtype=s.dtype, device=s.device)
            for s in (known[n] for n in piece.inputs)
        ]
        return tuple(piece.graph(*values))
