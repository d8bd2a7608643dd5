"""`ModuleProxy`: a module that takes another's place, in pipelines and in the tools around them.

It has no parts of its own: the tables of parameters, buffers and submodules *are* the original's, so that
whoever walks, replaces or casts parts by name (quantizers, adapters, offloading) finds the original's
names and changes the original.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator
from types import MethodType
from typing import Any, ClassVar

import torch
from torch import nn

from ..capture.root_hooks import unhook
from ..errors import ReplicaError
from .foreign_tracers import REASON, compiler_looks
from .forward_methods import FORWARD, reaches, runs_forward

# What accelerate hangs on the module that it was given, and looks for there.
ACCELERATES = frozenset({"_hf_hook", "_old_forward"})
SHARED = (
    "_parameters", "_buffers", "_non_persistent_buffers_set", "_modules",
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip
HOOKS = frozenset(nn.Module().__dict__.keys() - {"training", *SHARED})
# Methods of `nn.Module` that models override with rules of their own (quantized, mixed dtypes).
DELEGATED = (
    "_apply", "_get_name", "_load_from_state_dict", "_named_members", "_register_load_state_dict_pre_hook",
    "_register_state_dict_hook", "_save_to_state_dict", "add_module", "apply", "bfloat16", "buffers",
    "children", "cpu", "cuda", "double", "eval", "extra_repr", "float", "get_buffer", "get_extra_state",
    "get_parameter", "get_submodule", "half", "ipu", "load_state_dict", "mtia", "named_buffers",
    "named_children", "named_parameters", "parameters", "register_buffer",
    "register_load_state_dict_post_hook", "register_load_state_dict_pre_hook", "register_module",
    "register_parameter", "register_state_dict_post_hook", "register_state_dict_pre_hook", "requires_grad_",
    "set_extra_state", "set_submodule", "share_memory", "state_dict", "to", "to_empty", "train", "type",
    "xpu", "zero_grad",
)  # fmt: skip


def _delegated(name: str) -> Callable[..., Any]:
    @functools.wraps(getattr(nn.Module, name))
    def method(self: ModuleProxy, *args: Any, **kwargs: Any) -> Any:
        result = getattr(self.original, name)(*args, **kwargs)
        return self if result is self.original else result

    return method


class ModuleProxy(nn.Module):
    """Attributes, parts, state dict and class are the original's, read and written; the forward is not.

    `isinstance` holds for the original's class, too, and a pipeline saves what it would have saved.
    Methods of the original that run its forward run that of the stand-in.
    """

    # Attributes of the stand-in itself; all others are read from the original and written to it.
    KEPT: ClassVar[frozenset[str]] = frozenset(
        {*ACCELERATES, "original", "forward", "_rebound", *HOOKS, *SHARED}
    )
    original: nn.Module
    _rebound: dict[Callable[..., Any], bool]

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        own = self.__dict__
        del own["training"]
        own.update({name: original.__dict__[name] for name in SHARED})
        own.update(original=original, _rebound={})
        # diffusers writes `__class__` and `__module__` of its components to model_index.json.
        own["__module__"] = type(original).__module__

    @torch.compiler.disable(reason=REASON)
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = type(self.original).__call__
        if call is nn.Module.__call__:
            return super().__call__(*args, **kwargs)
        return call(self, *args, **kwargs)  # a class may do something around the call of its forward

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # type: ignore[override]
        original = self.__dict__.get("original")
        # torch.compile looks for methods there: it must find those of the stand-in.
        return type(self) if original is None or compiler_looks() else type(original)

    @__class__.setter
    def __class__(self, kind: type) -> None:
        self.original.__class__ = kind  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        if name in self.KEPT and name != "_hf_hook":
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        if isinstance(getattr(type(self), name, None), property):
            return object.__getattribute__(self, name)  # its own AttributeError
        value = getattr(self.original, name)
        if isinstance(value, MethodType) and value.__self__ is self.original:
            function = value.__func__
            if function not in self._rebound:
                self._rebound[function] = runs_forward(function, type(self.original), self._entries)
            return MethodType(function, self) if self._rebound[function] else value
        return value

    @property
    def _entries(self) -> frozenset[str]:
        """Names of the methods that the stand-in runs itself."""
        return FORWARD

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_hf_hook":
            unhook(self.original)  # as a new hook of accelerate takes the place of the one before
        if name == "forward" and not ACCELERATES & self.__dict__.keys() and not reaches(value, self):
            # It takes the place of the forward, rather than going around the cached one: cache that.
            self.original.forward = (
                MethodType(value.__func__, self.original) if _is_of(value, self) else value
            )
            return
        if name == "_diffusers_hook":
            value._module_ref = self.original  # run around the original's forward, whoever runs that
        if name in self.KEPT:
            object.__setattr__(self, name, value)
        else:
            setattr(self.original, name, value)

    def __delattr__(self, name: str) -> None:
        if name == "_hf_hook" and name not in self.__dict__:
            unhook(self.original)
        elif name == "forward" and name not in self.__dict__:
            del self.original.forward
        elif name in self.KEPT:
            object.__delattr__(self, name)
        else:
            delattr(self.original, name)

    def __dir__(self) -> Iterable[str]:
        return sorted({*dir(type(self)), *self.__dict__, *dir(self.original)})

    def _hung(self) -> dict[str, Any]:
        """What others hung on the stand-in itself: hooks, and a forward around its own."""
        names = self.__dict__.keys() & {*ACCELERATES, "forward", *HOOKS}
        return {name: self.__dict__[name] for name in names if self.__dict__[name]}

    def _hang_like(self, other: ModuleProxy, memo: dict[int, Any]) -> None:
        """Hang copies here of what hangs on `other`."""
        memo[id(other)] = self
        self.__dict__.update(copy.deepcopy(other._hung(), memo))

    def __setstate__(self, hung: dict[str, Any]) -> None:
        self.__dict__.update(hung)

    # A walk finds the stand-in where it would find the original.

    def modules(self, *args: Any, **kwargs: Any) -> Iterator[nn.Module]:
        walk = self.original.modules(*args, **kwargs)
        return (self if m is self.original else m for m in walk)

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:  # type: ignore[override]
        walk = self.original.named_modules(*args, **kwargs)
        return ((name, self if m is self.original else m) for name, m in walk)

    def _replicate_for_data_parallel(self) -> Any:
        raise ReplicaError(type(self.original).__name__)


for _name in DELEGATED:
    setattr(ModuleProxy, _name, _delegated(_name))


def _is_of(value: Any, module: nn.Module) -> bool:
    return isinstance(value, MethodType) and value.__self__ is module
