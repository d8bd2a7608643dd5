"""From a prepared stage to engines, through torch-tensorrt's dynamo API."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from ...errors import LeftoverOperatorsError
from .available import require_torch_tensorrt
from .enginecache import engine_folder
from .prepare import Prepared
from .shape_ranges import Spec
from .split_bookkeeping import in_double, operator_name, operators_of

NO_CONVERTER = "torch-tensorrt has no converter for it, with these types and sizes"
DOUBLE = "TensorRT has no float64"
ENGINE = "_run_on_acc"  # in the names that torch-tensorrt (2.13, 2.14) gives engines: it has no other mark
BESIDE_DOUBLE = "it is used with float64 too, and torch-tensorrt takes all uses of an operator or none"


@dataclass(frozen=True)
class Coverage:
    """Where the operators of one stage run.

    engines: how many engines; in_engines: operators in them. leftovers: operator → why it stayed in
    PyTorch between engines. beside: operators that run in PyTorch before and after the engine by
    design: bookkeeping, float64, writes to the state. weights: bytes of weights in the engines; repeated:
    those of them that an earlier stage's engine holds, too.
    """

    stage: str
    engines: int
    in_engines: int
    leftovers: Mapping[str, str]
    beside: Mapping[str, int]
    weights: int
    repeated: int = 0

    @property
    def full(self) -> bool:
        """One engine at most, and nothing left over."""
        return not self.leftovers and self.engines <= 1


def lower_stage(
    stage: Prepared, settings: Mapping[str, Any], dry: bool
) -> tuple[GraphModule | None, Coverage]:
    """Lower, partition and (unless `dry`) build the engines of a stage.

    Args:
        stage: what to lower.
        settings: arguments of `torch_tensorrt.dynamo.compile`.
        dry: stop before engines are built; the result then runs in PyTorch.

    Returns:
        A module for the engine's piece, None where there is nothing for an engine; and the coverage.
    """
    if stage.exported is None or stage.engine is None:
        return None, _coverage(stage, None)
    package = require_torch_tensorrt()
    chosen = _settings(stage, settings)
    if any(in_double(n) for n in stage.engine.graph.graph.nodes):
        chosen["torch_executed_ops"] = _kept_out(package, stage, chosen)
    lowered = _compile(package, stage, chosen, dry)
    return lowered, _coverage(stage, lowered, chosen.get("torch_executed_ops", ()))


def _compile(package: Any, stage: Prepared, settings: Mapping[str, Any], dry: bool) -> GraphModule:
    assert stage.engine is not None
    inputs = [engine_input(package, stage.specs[n]) for n in stage.engine.inputs]
    # a dry run prints its statistics
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO() if dry else sys.stdout):
        compiled = package.dynamo.compile(stage.exported, arg_inputs=inputs, dryrun=dry, **settings)
    return compiled  # type: ignore[no-any-return]


def _kept_out(package: Any, stage: Prepared, settings: Mapping[str, Any]) -> set[Any]:
    """Operators to keep in PyTorch so that none computes in float64 in an engine.

    torch-tensorrt refuses casts to float64, and then puts sums and products of the result into an engine.
    """
    kept = set(settings.get("torch_executed_ops", ()))
    while True:
        lowered = _compile(package, stage, {**settings, "torch_executed_ops": kept}, dry=True)
        graphs = [m.graph for m in engines_in(lowered).values() if isinstance(m, GraphModule)]
        found = {n.target for g in graphs for n in g.nodes if operator_name(n) is not None and in_double(n)}
        if not found:
            return kept
        kept |= found


def _settings(stage: Prepared, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with the stage's GPU, and its own folder of the engine cache."""
    chosen = dict(settings)
    devices = [s.device for s in stage.specs.values() if s.device is not None and s.device.type == "cuda"]
    if devices:
        chosen.setdefault("device", devices[0])
    if "engine_cache_dir" in chosen and stage.exported is not None:
        chosen["engine_cache_dir"] = str(engine_folder(chosen["engine_cache_dir"], stage.exported))
    return chosen


def engine_input(package: Any, spec: Spec) -> Any:
    """`torch_tensorrt.Input` for a spec."""
    if spec.fixed:
        return package.Input(shape=spec.usual, dtype=spec.dtype)
    return package.Input(min_shape=spec.low, opt_shape=spec.usual, max_shape=spec.high, dtype=spec.dtype)


def require_full(coverage: Coverage) -> None:
    """Raises `LeftoverOperatorsError` unless the stage is one engine."""
    if not coverage.full:
        raise LeftoverOperatorsError(coverage.stage, dict(coverage.leftovers))


def with_repeated(stages: Sequence[Prepared], coverage: Sequence[Coverage]) -> tuple[Coverage, ...]:
    """`coverage` with the weights counted that more than one engine holds."""
    seen: set[int] = set()
    found: list[Coverage] = []
    for stage, one in zip(stages, coverage, strict=True):
        weights = {t.data_ptr(): t.numel() * t.element_size() for t in _state(stage).values()}
        again = sum(size for place, size in weights.items() if place in seen)
        seen |= weights.keys()
        found.append(replace(one, repeated=again))
    return tuple(found)


def engines_in(module: nn.Module | None) -> dict[str, nn.Module]:
    """The parts that are, or in a dry run would be, engines."""
    return {n: m for n, m in (module.named_children() if module is not None else ()) if ENGINE in n}


def _coverage(stage: Prepared, lowered: GraphModule | None, kept: Collection[Any] = ()) -> Coverage:
    engines = engines_in(lowered)
    inside = sum(_count(m, stage, len(engines)) for m in engines.values())
    left = _left(lowered, engines, kept)
    beside: dict[str, int] = {p.place: len(p.operators) for p in stage.pieces if p.place != "engine"}
    return Coverage(stage.name, len(engines), inside, left, beside, _weights(stage))


def _count(module: nn.Module, stage: Prepared, engines: int) -> int:
    if isinstance(module, GraphModule):
        return len(operators_of(module))
    return len(stage.engine.operators) if stage.engine is not None and engines == 1 else 0


def _left(
    lowered: GraphModule | None, engines: Mapping[str, nn.Module], kept: Collection[Any]
) -> dict[str, str]:
    found: dict[str, str] = {}
    if lowered is None:
        return found
    children = {n: m for n, m in lowered.named_children() if isinstance(m, GraphModule) and n not in engines}
    for graph in (lowered, *children.values()):
        for node in graph.graph.nodes:
            name = operator_name(node)
            if name is None:
                continue
            if in_double(node):
                found[name] = DOUBLE
            else:
                found.setdefault(name, BESIDE_DOUBLE if node.target in kept else NO_CONVERTER)
    return found


def _weights(stage: Prepared) -> int:
    return sum(t.numel() * t.element_size() for t in _state(stage).values())


def _state(stage: Prepared) -> Mapping[str, torch.Tensor]:
    """Parameters, buffers and constant tensors."""
    if stage.exported is None:
        return {}
    constants = {n: t for n, t in stage.exported.constants.items() if isinstance(t, torch.Tensor)}
    return {**constants, **stage.exported.state_dict}
