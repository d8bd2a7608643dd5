"""Split the chain into segments: one for the model, or one for each block list."""

from __future__ import annotations

from ..errors import TooManyBlocksError
from ..ir.blocks import Block, Segment
from ..ir.program import Program


def split_segments(program: Program) -> Program:
    """Fill `segments`, each with its Fn and Bn. Raises `TooManyBlocksError`."""
    groups = [list(program.chain)] if program.scope == "model" else _by_list(program.chain)
    fn, bn = program.config.fn_compute_blocks, program.config.bn_compute_blocks
    segments: list[Segment] = []
    for index, blocks in enumerate(groups):
        if fn + bn > len(blocks):
            raise TooManyBlocksError(fn, bn, len(blocks), _describe(program, blocks))
        segments.append(Segment(index, tuple(blocks), fn, bn))
    return program.replace(segments=tuple(segments))


def _by_list(chain: tuple[Block, ...]) -> list[list[Block]]:
    """Runs of one list; lists that take turns (spatial and temporal blocks) stay together."""
    runs: list[list[Block]] = []
    for block in chain:
        if runs and runs[-1][-1].module_list == block.module_list:
            runs[-1].append(block)
        else:
            runs.append([block])
    alternating = len({run[0].module_list for run in runs}) < len(runs)
    return [list(chain)] if alternating else runs


def _describe(program: Program, blocks: list[Block]) -> str:
    lists: dict[str, int] = {}
    for block in blocks:
        lists[block.module_list] = lists.get(block.module_list, 0) + 1
    model = type(program.capture.model).__name__
    return f"{model} ({', '.join(f'{name} x{count}' for name, count in lists.items())})"
