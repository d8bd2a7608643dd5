"""Split the chain into segments: one for the model, or one for each block list.

The output of the model has one decision, whatever the lists are.
"""

from __future__ import annotations

from ..errors import TooManyBlocksError
from ..ir.blocks import Block, Segment
from ..ir.program import Program


def split_segments(program: Program) -> Program:
    """Fill `segments`, each with its Fn and Bn.

    Takes a chain. Ensures that the segments are the chain, cut, in order.

    Raises:
        TooManyBlocksError: Fn + Bn is more than a segment has blocks.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> from fxcache.passes.split_segments import split_segments
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> inputs = {"src": torch.randn(3, 1, 8)}
        >>> cached = fxcache.transform(model, "F1B1_W4M0MC3_T1O1_R0.12", example_inputs=inputs)
        >>> (segment,) = split_segments(cached.graph.program).segments
        >>> segment.fn, [block.name for block in segment.middle], segment.bn
        (1, ['layers.1', 'layers.2'], 1)
    """
    whole = program.scope == "model" or program.config.level == "output"
    groups = [list(program.chain)] if whole else _by_list(program.chain)
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
