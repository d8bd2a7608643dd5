"""Tensors "on" a GPU that is not there, and what of them comes to the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree

aten = torch.ops.aten


class FakeDevice:
    """Makes fake tensors; each may stand for a real one in the host's memory.

    crossings: what was read or copied from the device to the host or back, in turn, as text.
    answer: the value of a bool that is read and stands for no real one.
    """

    def __init__(self) -> None:
        self.mode: FakeTensorMode = _Watching(self)
        self.crossings: list[str] = []
        self.answer = False
        self._real: dict[
            int, tuple[Tensor, Tensor]
        ] = {}  # the fake one is held, so that its id stays its own

    def like(self, tensor: Tensor, dtype: torch.dtype | None = None, real: bool = False) -> Tensor:
        """A tensor on the device as `tensor` is laid out; floating-point ones have `dtype`.

        real: it stands for `tensor`.
        """
        kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        with self.mode:
            fake = torch.empty_strided(tensor.size(), tensor.stride(), dtype=kind, device="cuda")
        if isinstance(tensor, nn.Parameter):
            fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
        if real:
            self._real[id(fake)] = fake, tensor
        return fake

    def real(self, fake: Tensor) -> Tensor | None:
        """What `fake` stands for: itself, if it is in the host's memory."""
        if not isinstance(fake, FakeTensor):
            return fake
        return self._real.get(id(fake), (None, None))[1]

    def tree(self, values: Any, dtype: torch.dtype | None = None, real: bool = False) -> Any:
        """`like` of every tensor in nested containers."""
        return pytree.tree_map_only(Tensor, lambda t: self.like(t, dtype, real), values)

    def move(self, model: nn.Module, dtype: torch.dtype | None = None, real: bool = False) -> nn.Module:
        """`model.to("cuda", dtype)`, in place."""
        for module in model.modules():
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is not None:
                        table[name] = self.like(tensor, dtype, real)  # type: ignore[assignment]
        return model


class _Watching(FakeTensorMode):
    """Notes what crosses between host and device, and lets reads go through."""

    def __init__(self, device: FakeDevice) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self._device = device

    def dispatch(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (aten._local_scalar_dense.default, aten.equal.default):
            self._device.crossings.append(f"{func}({args[0].dtype}, {tuple(args[0].shape)})")
            return self._read(func, args)
        result = super().dispatch(func, types, args, kwargs)
        places = {t.device.type for t in pytree.tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)}
        if len(places) > 1:
            self._device.crossings.append(f"{func} between {', '.join(sorted(places))}")
        return result

    def _read(self, func: Any, args: Sequence[Any]) -> Any:
        reals = [self._device.real(a) for a in args]
        if all(r is not None for r in reals):
            return func(*reals)
        return self._device.answer if args[0].dtype == torch.bool or func is aten.equal.default else 0
