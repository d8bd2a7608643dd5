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
    chain = _without_side_lists(_heaviest(ends, chains, candidates), candidates)
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
