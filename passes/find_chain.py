"""Find the chain of repeated blocks, from dataflow alone.

Candidates are the calls of items of the model's collections (or, if asked, of any modules of one class
that are called repeatedly). Walking back from the model's output, the block
before a block is the latest one of the same list whose output reaches it, else the one with the most
parameters behind it. The prefix that only feeds the chain (text refiners) is cut off again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import nn
from torch.fx import Node

from ..capture.leaf_adapter import called_leaf
from ..errors import NamedBlocksError, NoBlocksError
from ..ir.blocks import Block
from ..ir.dataflow import ancestors, in_order
from ..ir.module_lists import find_lists, is_small
from ..ir.program import Program


def find_chain(program: Program) -> Program:
    """Fill `chain` with its blocks in execution order (their streams come with the next pass).

    Takes a capture. Ensures that each block consumes, through glue, what the one before produced. `notes`
    says which lists lie beside the chain.

    Where the model's output is cached and no block runs in a hit, there need not be one.

    Raises:
        NoBlocksError: no two blocks follow each other. NamedBlocksError: those that were named do not.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> from fxcache.ir.program import Program
        >>> from fxcache.passes.find_chain import find_chain
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> inputs = {"src": torch.randn(3, 1, 8)}
        >>> cached = fxcache.transform(model, "F1B1_W4M0MC3_T1O1_R0.12", example_inputs=inputs)
        >>> done = cached.graph.program
        >>> program = Program(done.capture, done.config, scope="model", timestep=None)
        >>> [block.name for block in find_chain(program).chain]
        ['layers.0', 'layers.1', 'layers.2', 'layers.3']
    """
    graph = program.capture.graph.graph
    candidates = _candidates(program)
    chains: dict[Node, list[Node]] = {}
    for node in candidates:
        earlier = _preceding(node.all_input_nodes, candidates)
        same = [p for p in earlier if candidates[p].module_list == candidates[node].module_list]
        if same:
            previous: list[Node] = chains[same[-1]]
        else:
            previous = _heaviest(earlier, chains, candidates)
        chains[node] = [*previous, node]
    ends = _preceding(graph.output_node().all_input_nodes, candidates)
    chain = _heaviest(ends, chains, candidates)
    beside: tuple[str, ...] = ()
    if program.named:
        _require_all(program, chain, candidates)
    else:
        chain, beside = _without_side_lists(chain, candidates)
    if len(chain) < 2 and not program.needs_chain:
        return program
    if len(chain) < 2:
        found = (
            ", ".join(sorted({b.module_list for b in candidates.values()}))
            or "nothing that holds several of one class is called"
        )
        raise NoBlocksError(type(program.capture.model).__name__, found)
    return program.replace(chain=tuple(candidates[n] for n in chain), notes=(*program.notes, *beside))


def _candidates(program: Program) -> dict[Node, Block]:
    if program.named:
        calls = ((node, name, leaf) for node, name, leaf in _calls(program) if name in program.named)
        return {node: _block(node, leaf, program.named[name]) for node, name, leaf in calls}
    return _repeated(program) if program.by_class else _items(program)


def _require_all(program: Program, chain: list[Node], candidates: dict[Node, Block]) -> None:
    """Raises `NamedBlocksError` unless every block that was named is called, and in the chain."""
    model, called = type(program.capture.model).__name__, {name for _, name, _ in _calls(program)}
    unused = [name for name in program.named if name not in called]
    if unused:
        raise NamedBlocksError(model, f"'{unused[0]}' is not called")
    outside = [candidates[node].name for node in candidates if node not in set(chain)]
    if outside or len(chain) < 2:
        names = " > ".join(candidates[node].name for node in chain) or "none"
        missing = f"'{outside[0]}' is not in it" if outside else "that is one call"
        raise NamedBlocksError(model, f"of their calls, these follow each other: {names}; {missing}")


def _items(program: Program) -> dict[Node, Block]:
    """The calls of items of collections."""
    lists = find_lists(program.capture.model)
    found = ((node, name, leaf) for node, name, leaf in _calls(program) if name in lists)
    return {node: _block(node, leaf, lists[name]) for node, name, leaf in found}


def _repeated(program: Program) -> dict[Node, Block]:
    """The calls of classes that are called several times, other than torch's own small layers."""
    groups: dict[str, dict[Node, Block]] = {}
    for node, name, leaf in _calls(program):
        # Those that were chosen by their class may be anywhere.
        parent = "" if program.among else name.rpartition(".")[0]
        group = ".".join(filter(None, (parent, type(leaf).__name__)))
        if name in program.among or not (program.among or is_small(leaf)):
            groups.setdefault(group, {})[node] = _block(node, leaf, group)
    repeated = {node: block for group in groups.values() if len(group) > 1 for node, block in group.items()}
    return {n: repeated[n] for n in in_order(repeated, program.capture.graph.graph)}


def _calls(program: Program) -> Iterator[tuple[Node, str, nn.Module]]:
    """Every call of a leaf with the leaf and its name, which may be called by an adapter of another name."""
    names = {id(leaf): name for name, leaf in program.capture.leaves.items()}
    graph = program.capture.graph
    for node in graph.graph.find_nodes(op="call_module"):
        leaf = called_leaf(graph.get_submodule(str(node.target)))
        yield node, names[id(leaf)], leaf


def _block(node: Node, leaf: nn.Module, group: str) -> Block:
    parameters = sum(p.numel() for p in leaf.parameters())
    return Block(node, str(node.target), group, type(leaf), parameters)


def _preceding(starts: list[Node], candidates: dict[Node, Block]) -> list[Node]:
    """The candidates whose outputs reach `starts` through glue, other than as a mere size; in order."""

    def stop(node: Node) -> bool:
        return node in candidates or isinstance(node.meta.get("val"), (int, torch.SymInt))

    found = ancestors(starts, stop=stop)
    return [n for n in candidates if n in found]


def _heaviest(ends: list[Node], chains: dict[Node, list[Node]], candidates: dict[Node, Block]) -> list[Node]:
    """The chain with the most parameters of those that end at `ends`.

    The latest of equals: what prepares a context usually runs before the chain itself.
    """
    latest_first = (chains[e] for e in reversed(ends))
    return max(latest_first, key=lambda chain: _weight(chain, candidates), default=[])


def _weight(chain: list[Node], candidates: dict[Node, Block]) -> tuple[int, int]:
    modules = {candidates[n].name: candidates[n].parameters for n in chain}
    return (sum(modules.values()), len(chain))


def _without_side_lists(
    chain: list[Node], candidates: dict[Node, Block]
) -> tuple[list[Node], tuple[str, ...]]:
    """Drop blocks of lists that mostly lie beside the chain: adapters, temporal mixers. Says which."""
    calls = Counter(block.module_list for block in candidates.values())
    inside = Counter(candidates[n].module_list for n in chain)
    beside = {name: count for name, count in calls.items() if 2 * inside[name] < count}
    notes = (
        f"blocks of '{name}' lie beside the chain, which passes through {inside[name]} of their {count} calls"
        for name, count in beside.items()
    )
    return [n for n in chain if candidates[n].module_list not in beside], tuple(notes)
