"""The choice between replaying and computing the middle, and what branches may return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..torch_private import BRANCHES_MAY_WRITE
from .known_decision import is_hit

Branch = Callable[..., tuple[Any, ...]]


def conditional(
    hit: Tensor,
    skip: Branch,
    compute: Branch,
    operands: Sequence[Any],
    intermediate_operands: Sequence[int],
    state_operands: Sequence[int] = (),
) -> tuple[Any, ...]:
    """`skip(*operands)` on a hit, else `compute(*operands)`.

    Compiled, it is the conditional operator and stays one graph. In eager it is a plain `if`, which waits for
    `hit`: there `torch.cond` would call the compiler on every step.

    Args:
        hit: 0-dim bool.
        skip, compute: take all operands; return tensors alike in number, shape and dtype.
        operands: what the branches take.
        intermediate_operands: positions of the operands that the graph computes; the others are its inputs.
        state_operands: positions of the inputs that branches may update in place.

    Example:
        >>> import torch
        >>> from fxcache.ops.cond import conditional
        >>> skip, compute = (lambda x: (x + 1,)), (lambda x: (x * 10,))
        >>> conditional(torch.tensor(False), skip, compute, (torch.tensor(2),), intermediate_operands=[0])
        (tensor(20),)
    """
    if not torch.compiler.is_compiling():
        return skip(*operands) if is_hit(hit) else compute(*operands)
    intermediate_operands = [i for i in intermediate_operands if isinstance(operands[i], Tensor)]
    complex_ones = [i for i in intermediate_operands if operands[i].is_complex()]
    if complex_ones:
        skip, compute = (_taking_reals(branch, complex_ones) for branch in (skip, compute))
    given = [_handed_over(v) if i in intermediate_operands else v for i, v in enumerate(operands)]
    written = () if BRANCHES_MAY_WRITE else tuple(state_operands)
    if written:
        skip, compute = (_returning(branch, written) for branch in (skip, compute))
    results = torch.ops.higher_order.cond(hit, skip, compute, tuple(given))
    for position, value in zip(written, results[len(results) - len(written) :], strict=True):
        operands[position].copy_(value)
    return results[: len(results) - len(written)]  # type: ignore[no-any-return]


def _handed_over(value: Tensor) -> Tensor:
    """`value` in a form that reaches a compiled branch unharmed.

    TorchInductor chooses the strides of what a graph makes, and compiles the branches for those it was
    traced with: a transposed operand would silently be read as if it were not. And it lowers no
    conditional with complex operands (rotary embeddings).
    """
    dense = (torch.view_as_real(value) if value.is_complex() else value).contiguous()
    return _as_it_is(dense, dense.shape)


def _taking_reals(branch: Branch, positions: Sequence[int]) -> Branch:
    def run(*values: Any) -> tuple[Any, ...]:
        return branch(*(torch.view_as_complex(v) if i in positions else v for i, v in enumerate(values)))

    return run


def _returning(branch: Branch, written: Sequence[int]) -> Branch:
    """`branch` for compilers that let it write nothing: it updates copies of operands, and returns them."""

    def run(*values: Any) -> tuple[Any, ...]:
        own = [v.clone() if i in written else v for i, v in enumerate(values)]
        return (*branch(*own), *(own[i] for i in written))

    return run


def materialize(value: Tensor, history: Tensor | None = None) -> Tensor:
    """`value` as a dense tensor of its own, where the conditional operator demands it of branches.

    Blocks may return views of one tensor; in eager they are left as they are.

    Args:
        value: any shape.
        history: what the other branch makes it of, [values, *shape of `value`]. Sizes are then written as
            those of `history`: a conditional takes sizes for different that are written in two ways
            (`h // 2 * 2`, and the size of a state tensor), and what it makes of these is not compiled ahead.

    Example:
        >>> import torch
        >>> from fxcache.ops.cond import materialize
        >>> view = torch.zeros(2, 3).T
        >>> materialize(view) is view  # compiled, it would be a contiguous copy
        True
    """
    if not torch.compiler.is_compiling():
        return value
    dense = value.clone(memory_format=torch.contiguous_format)
    return _as_it_is(dense, value.shape if history is None else history.shape[1:])


def _as_it_is(value: Tensor, shape: torch.Size) -> Tensor:
    """A contiguous tensor whose strides the compiler keeps.

    They are written as products of sizes, as the conditional operator wants them: those of a contiguous
    tensor of dynamic sizes have maxima in them (a size might be 0).
    """
    strides: list[int] = [1]
    for size in shape[:0:-1]:
        strides.insert(0, strides[0] * size)
    return value.as_strided(shape, strides[: len(shape)])


def store(slot: Tensor, value: Tensor) -> None:
    """Remember `value` in the state: write it into `slot`, a tensor of its shape.

    Example:
        >>> import torch
        >>> from fxcache.ops.cond import store
        >>> slot = torch.zeros(2)
        >>> store(slot, torch.ones(2))
        >>> slot
        tensor([1., 1.])
    """
    slot.copy_(value)
