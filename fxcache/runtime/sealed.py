"""`Sealed`: a module whose parts are compiled away. It refuses what it cannot do, and says what to do.

`nn.Module`'s own methods would succeed on it and do nothing: cast no weights, list none, save none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import nn

from ..errors import PackageAttributeError, PackageUseError
from .foreign_tracers import compiled_by, traced_by

BEFORE = "What changes a model (adapters, processors, casts, quantization) is done before fxcache.export()."
OFFLOAD = "It stays on its device: offload the other components of the pipeline, one by one."
WEIGHTS = f"They are in the model that was exported. {BEFORE} {OFFLOAD}"
REFUSED = {
    **dict.fromkeys(
        ("parameters", "named_parameters", "get_parameter", "buffers", "named_buffers", "get_buffer",
         "state_dict"),
        ("hand out its weights", WEIGHTS),
    ),
    **dict.fromkeys(("load_state_dict", "zero_grad"), ("take other weights", BEFORE)),
    **dict.fromkeys(
        ("children", "named_children", "get_submodule", "set_submodule", "add_module", "register_module",
         "register_parameter", "register_buffer"),
        ("show or change its parts", BEFORE),
    ),
    "enable_cache": ("have a second cache", "The one that it was exported with is inside."),
    "compile": ("be compiled by torch.compile", "It is compiled already: call it as it is."),
    "_replicate_for_data_parallel": (
        "be replicated by nn.DataParallel", "Load it once in a process for each device.",
    ),
}  # fmt: skip


class Sealed(nn.Module):
    """A module of compiled code. Walks over modules find it as one without parts; hooks go around its call.

    sealed: the name of the model that it was made of.
    """

    sealed: str

    def __init__(self, name: str) -> None:
        super().__init__()
        self.__dict__.update(sealed=name, training=False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which it computes."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """The device on which it runs."""
        raise NotImplementedError

    def _hung(self) -> dict[str, Any]:
        """Tables of hooks that others hung on it."""
        return {name: table for name, table in self.__dict__.items() if "_hooks" in name and table}

    def _refuse(self, use: str, instead: str) -> NoReturn:
        raise PackageUseError(self.sealed, f"cannot {use}", instead)

    def _refuse_tracing(self) -> None:
        by = traced_by()
        if by is not None:
            self._refuse(f"be traced by {by}", "It is compiled already: call it as it is.")

    def __getattr__(self, name: str) -> Any:
        by = compiled_by(name)
        if by is not None:
            self._refuse(f"be compiled by {by}", "It is compiled already: call it as it is.")
        raise PackageAttributeError(self.__dict__.get("sealed", "a model"), f"has no '{name}'", BEFORE)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("_hf_hook", "_old_forward", "_diffusers_hook"):
            self._refuse("be offloaded, or take hooks of accelerate or diffusers", OFFLOAD)
        self._refuse(f"be changed by setting '{name}'", BEFORE)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Sealed:
        """Where `nn.Module` moves and casts: it may only stay what and where it is."""
        now = torch.empty(0, dtype=self.dtype, device=self.device)
        then = fn(now)
        if then.device != now.device:
            self._refuse(f"go from {now.device} to {then.device}", f"{OFFLOAD} Export it for each device.")
        if then.dtype != now.dtype:
            self._refuse(
                f"become {then.dtype}", f"It takes {now.dtype}; export the model in the other dtype."
            )
        return self

    def train(self, mode: bool = True) -> Sealed:
        """Does nothing with `mode=False`."""
        if mode:
            self._refuse("be trained", "Train the model, and export it again.")
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Sealed:
        """Does nothing with `requires_grad=False`."""
        if requires_grad:
            self._refuse("compute gradients", "Take them from the model that was exported.")
        return self

    def apply(self, fn: Callable[[nn.Module], None]) -> Sealed:  # type: ignore[override]
        """Calls `fn` with the module itself: there are no parts."""
        fn(self)
        return self


def _refusing(use: str, instead: str) -> Callable[..., NoReturn]:
    def method(self: Sealed, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse(use, instead)

    return method


for _name, _why in REFUSED.items():
    setattr(Sealed, _name, _refusing(*_why))
