"""Watch what a leaf writes to while it runs: its operands, itself, or what is not its own.

Versions of tensors do not tell: inference tensors have none. The schemas of operators do, and storages
tell views.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef  # a storage's number is not used again meanwhile

from ..environment.opaque_objects import tensors_within
from ..errors import BlockMutationError
from ..torch_private import FakeTensor, OpOverload, TorchDispatchMode, enable_python_dispatcher
from .operator_schemas import NUMBERS_WANTED, draws, is_collective, storage_of, written_by
from .rng_state import python_random_kept

LIFTED = (
    torch.ops.aten.lift_fresh.default,
    torch.ops.aten.lift_fresh_copy.default,
    torch.ops.aten.lift.default,
)


def geometry(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What two tensors have in common that are views of the same elements."""
    sizes = (*tensor.shape, *tensor.stride(), tensor.storage_offset())
    return (storage_of(tensor), tensor.dtype, tensor.dim(), *map(_number, sizes))


def _number(size: Any) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else size


class LeafWrites(TorchDispatchMode):
    """Collects the operands that a leaf writes to, with what they held before.

    before: for each written operand, by its place, a copy from before the first write.
    wrote: whether the leaf wrote to anything. drew: whether it took random numbers. communicates: whether
    other processes took part. objects: those among its arguments. models: memory of the model's
    parameters and buffers, which are a leaf's own only where it has them registered.
    Raises `BlockMutationError` at a write to what is neither the leaf's own, nor made by it, nor an operand.
    """

    supports_higher_order_operators = True

    def __init__(
        self,
        name: str,
        leaf: nn.Module,
        operands: Sequence[Any],
        objects: Iterable[Any],
        models: Container[int | None],
    ) -> None:
        super().__init__()
        self.before: dict[int, torch.Tensor] = {}
        self.drew = False
        self.wrote = False
        self.communicates = False
        self._name = name
        self._operands = operands
        self._at: dict[int | None, list[int]] = {}
        for i, operand in enumerate(operands):
            if isinstance(operand, torch.Tensor):
                self._at.setdefault(storage_of(operand), []).append(i)
        self._objects = {storage_of(t) for t in tensors_within(list(objects))}
        self._own = {storage_of(t) for t in (*leaf.parameters(), *leaf.buffers())}
        self._own |= {s for t in plain_tensors_of(leaf) if (s := storage_of(t)) not in models}
        self._made: dict[int | None, StorageWeakRef] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in written_by(func, args, kwargs):
            self.wrote = True
            self._write(func, tensor)
        self.drew = self.drew or draws(func, args, kwargs)
        self.communicates = self.communicates or is_collective(func)
        # The kernel returns its input where nothing is dropped; fake tensors, below autograd, a copy.
        unchanged = func is torch.ops.aten.dropout.default and not draws(func, args, kwargs)
        # On fake tensors torch gives the work of a collective a random name: no number of the model's.
        with python_random_kept() if is_collective(func) else contextlib.nullcontext():
            result = args[0] if unchanged else _run(func, args, kwargs)
        for made in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(made, torch.Tensor):
                self._note(func, args, made)
        return result

    def made(self, tensor: torch.Tensor) -> bool:
        """Whether the leaf made the memory of `tensor`."""
        return storage_of(tensor) in self._made

    def operand_of(self, tensor: torch.Tensor) -> tuple[int, bool] | None:
        """The operand that `tensor` shares memory with, and whether it is that very operand."""
        places = self._at.get(storage_of(tensor), ())
        if storage_of(tensor) is None:
            places = [i for i in places if self._operands[i] is tensor]
        same = [i for i in places if geometry(self._operands[i]) == geometry(tensor)]
        return (same[0], True) if same else (places[0], False) if places else None

    def _note(self, func: Any, args: Any, tensor: torch.Tensor) -> None:
        storage = storage_of(tensor)
        if storage is None or storage in self._at or storage in self._own or storage in self._made:
            return
        for source in args if _makes_view(func) else ():
            if not isinstance(source, torch.Tensor):
                continue
            if isinstance(tensor, FakeTensor) and not isinstance(source, FakeTensor):
                # A view of a real tensor has, as a fake one, other memory.
                if storage_of(source) in self._own:
                    self._own.add(storage)
                return
            if storage_of(source) == storage:
                return
        self._made[storage] = StorageWeakRef(tensor.untyped_storage())

    def _write(self, func: Any, tensor: torch.Tensor) -> None:
        storage = storage_of(tensor)
        if storage in self._at:
            self._keep(func, self._at[storage])
        elif storage in self._objects:
            raise BlockMutationError(self._name, "writes to an object passed to it (a KV cache?)")
        elif storage is not None and storage not in self._own and storage not in self._made:
            raise BlockMutationError(self._name, f"writes to a tensor that is not its own ({func})")

    def _keep(self, func: Any, places: list[int]) -> None:
        first = self._operands[places[0]]
        if torch.Tag.inplace_view in func.tags:
            raise BlockMutationError(self._name, f"changes the shape of one of its inputs ({func})")
        if any(geometry(self._operands[i]) != geometry(first) for i in places):
            raise BlockMutationError(self._name, "writes to an input tensor that shares memory with another")
        if places[0] not in self.before:
            self.before[places[0]] = copied(first)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """An operator of a leaf. Where its kernel for shapes takes no symbols, the Python one does: what a leaf
    computes is no part of the graph."""
    try:
        return func(*args, **kwargs)
    except RuntimeError as error:
        if NUMBERS_WANTED not in str(error):
            raise
    with enable_python_dispatcher():
        return func(*args, **kwargs)


def _makes_view(func: Any) -> bool:
    if not isinstance(func, OpOverload) or func in LIFTED:
        return False
    return any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)


def plain_tensors_of(leaf: nn.Module) -> list[torch.Tensor]:
    """Tensors in plain attributes of a module, all the way down; not what its functions close over."""
    own = nn.Module().__dict__
    held = [v for m in leaf.modules() for n, v in vars(m).items() if n not in own and not callable(v)]
    return tensors_within(held)


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor like `tensor`, laid out as it is, in memory of its own."""
    copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return copy.copy_(tensor)


def disjoint(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two views of one memory surely have no element in common: parts of one tensor.

    At the sizes that are traced: to ask symbolic sizes would fix them.
    """
    first, second = sorted((a, b), key=lambda t: _at_hand(t.storage_offset()))
    strides = [_at_hand(s) for s in a.stride()]
    if strides != [_at_hand(s) for s in b.stride()] or a.dtype != b.dtype:
        return False
    apart = _at_hand(second.storage_offset()) - _at_hand(first.storage_offset())
    for d, stride in enumerate(strides):
        if stride and apart and apart % stride == 0 and apart // stride >= _at_hand(first.shape[d]):
            larger = [s for s in strides if s > stride]
            if not larger or apart + stride * _at_hand(second.shape[d]) <= min(larger):
                return True
    return False


def _at_hand(size: Any) -> int:
    if not isinstance(size, torch.SymInt):
        return int(size)
    hint = size.node.hint
    return int(hint) if hint is not None else 0  # of sizes that depend on data nothing is sure
