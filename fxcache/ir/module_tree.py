"""The tree of a model's modules, however they are held: registered, or in plain lists, dicts and objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

ATOMS = (
    str, bytes, int, float, complex, type(None), type, torch.Tensor, torch.dtype, torch.device,
    FunctionType, BuiltinFunctionType, MethodType, ModuleType,
)  # fmt: skip
TORCHS_OWN = frozenset(nn.Module().__dict__)
DEPTH = 4  # containers and helper objects inside one another, before there is a module
HOLDERS = (nn.ModuleList, nn.ModuleDict)  # have no forward


@dataclass(eq=False)
class Held:
    """A module, or a plain container that holds modules (`module` is None), and what it holds.

    path: dotted, from the model; no name is twice in it. registered: under that path in the model.
    """

    path: str
    module: nn.Module | None
    registered: bool = True
    children: list[Held] = field(default_factory=list)

    @property
    def calls(self) -> bool:
        """Whether it has a forward of its own."""
        return self.module is not None and not isinstance(self.module, HOLDERS)

    @property
    def holds_items(self) -> bool:
        return not self.calls or isinstance(self.module, nn.Sequential)

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    def walk(self) -> Iterator[Held]:
        pending = [self]
        while pending:
            held = pending.pop()
            yield held
            pending.extend(reversed(held.children))

    def parameters(self) -> int:
        """Number of parameters in it, each counted once."""
        found: dict[int, int] = {}
        for held in self.walk():
            if held.module is not None:
                found.update((id(p), p.numel()) for p in held.module._parameters.values() if p is not None)
        return sum(found.values())


def module_tree(model: nn.Module) -> Held:
    """Everything that `model` holds; a module that is held in two places is where it is met first."""
    root = Held("", model)
    seen = {id(model)}
    _add_registered(root, seen)  # before all others: these have names in the state dict
    for held in list(root.walk()):
        _add_plain(held, seen)
    return root


def _add_registered(held: Held, seen: set[int]) -> None:
    assert held.module is not None
    for name, child in held.module._modules.items():
        if child is not None and id(child) not in seen:
            seen.add(id(child))
            held.children.append(Held(_join(held.path, name), child))
            _add_registered(held.children[-1], seen)


def _add_plain(held: Held, seen: set[int]) -> None:
    assert held.module is not None
    for name, value in vars(held.module).items():
        if name not in TORCHS_OWN and not isinstance(value, ATOMS):
            found = _plain(_join(held.path, name), value, seen, DEPTH)
            if found is not None:
                held.children.append(found)


def _plain(path: str, value: Any, seen: set[int], depth: int) -> Held | None:
    """What `value`, an attribute or an item of a plain container, holds; None where it holds no module."""
    if isinstance(value, ATOMS) or id(value) in seen or depth == 0:
        return None
    seen.add(id(value))
    if isinstance(value, nn.Module):
        held = Held(path, value, registered=False)
        items = [*value._modules.items(), *(i for i in vars(value).items() if i[0] not in TORCHS_OWN)]
        depth = DEPTH + 1
    else:
        held, items = Held(path, None, registered=False), _items(value)
    for name, item in items:
        child = _plain(_join(path, name), item, seen, depth - 1)
        if child is not None:
            held.children.append(child)
    return held if held.module is not None or held.children else None


def _items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, (list, tuple)):
        return list(enumerate(value))
    # Of an object what it says to hold: hooks and the like, in private names, may reach anything.
    if type(value).__module__.split(".")[0] == "torch":
        return []
    return [(n, v) for n, v in getattr(value, "__dict__", {}).items() if not n.startswith("_")]


def _join(path: str, name: Any) -> str:
    part = str(name).replace(".", "_") or "_"
    return f"{path}.{part}" if path else part
