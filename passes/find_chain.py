"""Find the chain of repeated blocks, from dataflow alone.

Candidates are the calls of items of module lists. Walking back from the model's output, the block
before a block is the latest one of the same list whose output reaches it, else the one with the most
parameters behind it. The prefix that only feeds the chain (text refiners) is cut off again.
"""

from __future__ import annotations

import torch
from torch.fx import Node

from ..dataflow import ancestors
from ..errors import NoBlocksError
from ..ir import Block, Program
from ..modulelists import list_of


def find_chain(program: Program) -> Program:
    """Fill `chain` with its blocks in execution order (their streams come with the next pass).

    Raises `NoBlocksError` where no two blocks follow each other.
    """
    graph = program.capture.graph.graph
    candidates = {n: b for n in graph.nodes if (b := _block(program, n)) is not None}
    order = {n: i for i, n in enumerate(candidates)}
    before: dict[Node, list[Node]] = {
        n: sorted(_preceding(n.all_input_nodes, candidates), key=order.__getitem__) for n in candidates
    }
    chains: dict[Node, list[Node]] = {}
    for node in candidates:
        earlier = before[node]
        same = [p for p in earlier if candidates[p].module_list == candidates[node].module_list]
        if same:
            previous: list[Node] = chains[same[-1]]
        else:
            # the latest of equals: what prepares a context usually runs before the chain itself
            heaviest = max((_weight(chains[p], candidates) for p in earlier), default=(0, 0))
            equals = [chains[p] for p in earlier if _weight(chains[p], candidates) == heaviest]
            previous = equals[-1] if equals else []
        chains[node] = [*previous, node]
    ends = _preceding(graph.output_node().all_input_nodes, candidates)
    best = max((chains[e] for e in ends), key=lambda c: _weight(c, candidates), default=[])
    chain = _without_side_lists(best, candidates)
    if len(chain) < 2:
        found = ", ".join(sorted({b.module_list for b in candidates.values()})) or "no module list is called"
        raise NoBlocksError(type(program.capture.model).__name__, found)
    return program.replace(chain=tuple(candidates[n] for n in chain))


def _block(program: Program, node: Node) -> Block | None:
    if node.op != "call_module":
        return None
    name = str(node.target)
    module_list = list_of(program.capture.model, name)
    if module_list is None:
        return None
    module = program.capture.leaves[name]
    parameters = sum(p.numel() for p in module.parameters())
    return Block(node, name, module_list, type(module), parameters)


def _preceding(starts: list[Node], candidates: dict[Node, Block]) -> set[Node]:
    """The candidates whose outputs reach `starts` through glue, other than as a mere size."""

    def stop(node: Node) -> bool:
        return node in candidates or isinstance(node.meta.get("val"), (int, torch.SymInt))

    return {n for n in ancestors(starts, stop=stop) if n in candidates}


def _weight(chain: list[Node], candidates: dict[Node, Block]) -> tuple[int, int]:
    modules = {candidates[n].name: candidates[n].parameters for n in chain}
    return (sum(modules.values()), len(chain))


def _without_side_lists(chain: list[Node], candidates: dict[Node, Block]) -> list[Node]:
    """Drop blocks of lists that mostly lie beside the chain: adapters, temporal mixers."""
    calls: dict[str, int] = {}
    for block in candidates.values():
        calls[block.module_list] = calls.get(block.module_list, 0) + 1
    inside: dict[str, int] = {}
    for node in chain:
        name = candidates[node].module_list
        inside[name] = inside.get(name, 0) + 1
    return [n for n in chain if 2 * inside[candidates[n].module_list] >= calls[candidates[n].module_list]]
