"""A cached graph as a drawing: stages as boxes, the decision, what is remembered, the work of each stage.

Blocks that follow one another in a list are one entry: a model of 57 blocks reads as one of 4.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch.fx import Node

from ..policies import DBCache
from .keys import stage_name, stage_names
from .method import Method
from .printer import describe_state
from .program import Program
from .stage import Stage
from .statements import Sizes

if TYPE_CHECKING:
    import graphviz

FONT = {"fontname": "Helvetica", "fontsize": "11"}
SHOWN = 4  # modules and values that are named one by one; more are counted
COLORS = {"front": "#dbe9f6", "back": "#dbe9f6", "skip": "#dcefdc", "compute": "#f9e3c8"}


def draw(program: Program, work: Mapping[str, str], memory: str) -> graphviz.Digraph:
    """The drawing of a program; `source` of the result is its DOT text.

    Args:
        program: after the last pass.
        work: of each stage by name, as text (`"1.2 GFLOPs"`); stages that are not in it show none.
        memory: of what is remembered, as text.

    Raises:
        ImportError: the graphviz package is not installed.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> from fxcache.ir.draw import draw
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> inputs = {"src": torch.randn(3, 1, 8)}
        >>> cached = fxcache.transform(model, "F1B1_W4M0MC3_T1O1_R0.12", example_inputs=inputs)
        >>> drawing = draw(cached.graph.program, work={"skip": "0 FLOPs"}, memory="0.01 MiB")
        >>> [line.strip() for line in drawing.source.splitlines() if "skip" in line][:1]
        ['skip [label="skip: 0 FLOPs...
    """
    import graphviz  # optional

    graph = graphviz.Digraph(node_attr={**FONT, "shape": "box", "style": "rounded,filled"}, edge_attr=FONT)
    graph.attr(rankdir="TB", nodesep="0.5", ranksep="0.45")
    sizes = Sizes()
    state = {s.name for s in program.state}
    assert program.graph is not None
    inputs = [n for n in program.graph.graph.find_nodes(op="placeholder") if n.name not in state]
    described = [f"{n.name}  {sizes.describe(n.meta.get('val'))}" for n in inputs]
    graph.node("inputs", _lines(described), fillcolor="white")
    remembered = f"\\nstate: {memory}\\n" + _lines(describe_state(program, sizes))
    graph.node("state", remembered, shape="cylinder", style="filled", fillcolor="#eeeeee")
    before = "inputs"
    for trunk, segment in itertools.zip_longest(_trunks(program), program.segments):
        graph.node(trunk.name, _stage(program, trunk, work), fillcolor=_color(trunk.name))
        graph.edge(before, trunk.name)
        if segment is None:
            before = trunk.name
            break
        place = (segment.index, len(program.segments))
        skip, compute = stage_name("skip", *place), stage_name("compute", *place)
        hit, join = f"hit_{segment.index}", f"join_{segment.index}"
        graph.node(hit, _decision(program, segment.fn), shape="diamond", fillcolor="#fff6c2", style="filled")
        graph.edge(trunk.name, hit)
        for name, answer in ((skip, "hit"), (compute, "no hit")):
            stage = program.stages[name]
            graph.node(name, _stage(program, stage, work), fillcolor=_color(name))
            graph.edge(hit, name, label=f" {answer} ")
            graph.edge(name, join, label=_values(stage, sizes), arrowhead="none")
        graph.edge("state", skip, style="dashed", constraint="false")
        graph.edge(compute, "state", style="dashed", constraint="false")
        graph.node(join, "", shape="point")
        before = join
    graph.node("output", "output", fillcolor="white")
    graph.edge(before, "output")
    return graph


def _trunks(program: Program) -> list[Stage]:
    return [program.stages[n] for n in (*stage_names("front", len(program.segments)), "back")]


def _color(stage: str) -> str:
    return next(color for kind, color in COLORS.items() if stage.startswith(kind))


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\\l" for line in lines)


def _stage(program: Program, stage: Stage, work: Mapping[str, str]) -> str:
    """The box of a stage: what it runs, and its work."""
    calls = [str(n.target) for n in stage.graph.graph.find_nodes(op="call_module")]
    lines = list(_ranges(calls, {b.name for b in program.chain}))
    if stage.name.startswith("skip"):
        lines.insert(0, Method.of(program.config).name)
    title = f"{stage.name}{': ' + work[stage.name] if stage.name in work else ''}"
    return f"{title}\\n" + _lines(lines)


def _ranges(names: list[str], blocks: set[str]) -> Iterator[str]:
    """The names of modules; `blocks 1-3 (3 blocks)` where such follow one another."""
    split = [re.fullmatch(r"(.+)\.(\d+)", n) if n in blocks else None for n in names]
    pairs = enumerate(zip(split, names, strict=True))
    keyed = [(m[1], int(m[2]) - i) if m else (n, None) for i, (m, n) in pairs]
    for (name, offset), group in itertools.groupby(range(len(names)), key=keyed.__getitem__):
        places = list(group)
        if offset is None:
            yield name
        elif len(places) == 1:
            yield f"{name} {offset + places[0]}"
        else:
            yield f"{name} {offset + places[0]}-{offset + places[-1]} ({len(places)} blocks)"


def _some(names: list[str]) -> list[str]:
    rest = len(names) - SHOWN
    return names if rest <= 1 else [*names[:SHOWN], f"and {rest} more"]


def _decision(program: Program, fn: int) -> str:
    config = program.config
    if config.plans:
        return "hit?\\nby the plan"
    if config.steps_mask is not None:
        return "hit?\\nby the steps mask"
    if fn == 0 and config.policy.needs_front:
        return "hit?"
    number = "residual diff" if config.policy == DBCache() else type(config.policy).__name__
    return f"hit?\\n{number} < {config.residual_diff_threshold:g}"


def _values(stage: Stage, sizes: Sizes) -> str:
    """What a stage hands on, by its tensors' shapes."""
    outputs = stage.graph.graph.output_node().args[0]
    values = [n.meta.get("val") for n in outputs if isinstance(n, Node)]  # type: ignore[union-attr]
    return "\\l".join(f" {text}" for text in _some([sizes.describe(v) for v in values if _is_tensor(v)]))


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)
