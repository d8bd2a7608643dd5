"""Weights of a program for a GPU that is not there.

The compiler is given fake tensors on that device. When it writes the package it asks for the bytes of each,
and these are on the processor.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .tracing import FakeTensorMode, storage_id


class AbsentWeights:
    """Stand-ins on `device` for tensors that stay where they are."""

    def __init__(self, mode: FakeTensorMode, device: str) -> None:
        self._mode, self._device = mode, device
        self._known: dict[tuple[Any, ...], Tensor] = {}
        self._real: dict[int, Tensor] = {}  # by the number of the stand-in's memory
        self._kept: list[Tensor] = []  # so that no other tensor has the memory of one that is known

    def of(self, real: Tensor) -> Tensor:
        """The stand-in for `real`: one for all tensors that are the same memory, laid out alike."""
        key = (storage_id(real), real.size(), real.stride(), real.storage_offset(), real.dtype)
        if key not in self._known:
            self._kept.append(real)
            stand_in = self._like(real)
            whole = stand_in.untyped_storage().nbytes() == real.untyped_storage().nbytes()
            if not whole or real.storage_offset():  # a part of something larger
                real = real.contiguous().clone()
                stand_in = self._like(real)
            self._known[key] = stand_in
            self._real[storage_id(stand_in)] = real
        return self._known[key]

    @contextlib.contextmanager
    def written(self) -> Iterator[None]:
        """Within, AOTInductor writes the real bytes of stand-ins, and tells them apart by their memory."""
        graph: Any = importlib.import_module("torch._inductor.graph")
        lowering, alike = graph.GraphLowering, graph.is_same_tensor
        original = lowering.get_original_value_of_constant
        read: dict[int, Tensor] = {}

        def with_bytes(self_: Any, name: str) -> Tensor:
            value: Tensor = original(self_, name)
            if storage_id(value) not in self._real:  # of buffers there are copies, lest they be written to
                value = self_.constants[name]
            number = storage_id(value)
            if number not in self._real:
                return value
            if number not in read:
                read[number] = value.detach()  # another object: operators on fake tensors ask for the storage
                read[number].untyped_storage = self._real[number].untyped_storage  # type: ignore[method-assign]
            return read[number]

        lowering.get_original_value_of_constant, graph.is_same_tensor = with_bytes, _is_same
        try:
            yield
        finally:
            lowering.get_original_value_of_constant, graph.is_same_tensor = original, alike

    def _like(self, real: Tensor) -> Tensor:
        with self._mode:
            return torch.empty_strided(real.size(), real.stride(), dtype=real.dtype, device=self._device)


def _is_same(one: Tensor, other: Tensor) -> bool:
    """As torch's own, which asks for addresses; fake tensors have none."""
    return _identity(one) == _identity(other)


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    layout = (tensor.size(), tensor.stride(), tensor.storage_offset(), tensor.dtype, tensor.device)
    return (*layout, storage_id(tensor))
