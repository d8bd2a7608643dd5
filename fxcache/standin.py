"""`StandIn`: a module that takes another's place, in pipelines and in the tools around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

# What others hang on the module that they were given, and look for there: never the original's.
OWN = frozenset({"original", "_hf_hook", "_old_forward", "_diffusers_hook"})

Self = TypeVar("Self", bound="StandIn")


class StandIn(nn.Module):
    """Attributes, parameters, buffers, state dict and class are the original's; the forward is not.

    `isinstance` holds for the original's class, too, and a pipeline saves what it would have saved.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.original = original
        self.__dict__["original"] = original  # found without the search of nn.Module: every call asks for it
        self.training = original.training
        # diffusers writes `__class__` and `__module__` of its components to model_index.json.
        self.__dict__["__module__"] = type(original).__module__
        self._register_load_state_dict_pre_hook(_under_original)

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # type: ignore[override]
        return type(self.original) if "original" in self.__dict__.get("_modules", {}) else type(self)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in OWN:
                raise
            return getattr(self.original, name)

    def to(self: Self, *args: Any, **kwargs: Any) -> Self:
        self.original.to(*args, **kwargs)  # models have rules of their own here (quantised, mixed dtypes)
        return self

    def train(self: Self, mode: bool = True) -> Self:
        self.original.train(mode)
        self.training = mode
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.original.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.original.load_state_dict(*args, **kwargs)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        return self.original.named_parameters(prefix, recurse, remove_duplicate)

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, torch.Tensor]]:
        return self.original.named_buffers(prefix, recurse, remove_duplicate)


def _under_original(state_dict: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """A module that holds a stand-in loads keys without `original.`, as it gave them."""
    assert isinstance(state_dict, dict)
    for key in [k for k in state_dict if k.startswith(prefix)]:
        state_dict[f"{prefix}original.{key[len(prefix) :]}"] = state_dict.pop(key)
