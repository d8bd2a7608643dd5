"""How a model's forward is called: its parameters, the arguments of a call by name, and the timestep.

The signature is that of `model.forward`, as it is on this object: set on the instance, decorated, partial.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import Parameter
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from ..environment.ignored import AbsentError, IgnoredOption
from ..errors import ArgumentsError, ConfigError, NoMethodError, NoTimestepError
from ..spelling import nearest
from .root_hooks import FORWARD, forward_beneath

TIMESTEP_NAMES = ("timestep", "timesteps", "decoder_noise_time", "bb_ca_time", "t", "sigma", "time")
ANYTHING = inspect.Signature(
    [Parameter("args", Parameter.VAR_POSITIONAL), Parameter("kwargs", Parameter.VAR_KEYWORD)]
)


class Bound(dict[str, Any]):
    """The arguments of a call by name; those that `*args` took are one tuple under that name.

    positional: how many must be given by position, because a decorator sees how they are given.
    method: which of the model's methods was called. absent: paths of options to be ignored that the call has
    not, and what it has there.
    """

    positional: int = 0
    method: str = FORWARD
    absent: Mapping[str, tuple[str, ...]] = MappingProxyType({})


@dataclass(frozen=True)
class ForwardInputs:
    """The parameters of a forward, and which of them is the timestep.

    names: in order, without `*args` (variadic) and `**keywords`. positional_only: how many of them are.
    required: those without a default. timestep: the one that the user named, or that has a usual name.
    as_given: a decorator is around the forward, which may look at how arguments are given.
    method: its name, where it is another method of the model. ignored: options that it is not to be shown.
    """

    model: str
    names: tuple[str, ...]
    timestep: str | None
    required: frozenset[str]
    defaults: Mapping[str, Any]
    positional: int
    positional_only: int
    variadic: str | None
    keywords: bool
    as_given: bool
    named: bool
    known: frozenset[str]
    method: str = FORWARD
    ignored: tuple[IgnoredOption, ...] = ()

    @staticmethod
    def of(
        model: nn.Module, timestep: str | None = None, method: str = FORWARD, ignore: Sequence[str] = ()
    ) -> ForwardInputs:
        """Those of `model`.

        Raises:
            NoTimestepError: its forward cannot take a `timestep`. NoMethodError: it has no such `method`.
            ConfigError: what to `ignore` is no input.
        """
        forward = _method(model, method)
        signature, outer = _signature(forward), _signature(forward, follow_wrapped=False)
        parameters = signature.parameters.values()
        plain = [p for p in parameters if p.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)]
        variadic = next((p.name for p in parameters if p.kind is Parameter.VAR_POSITIONAL), None)
        found = ForwardInputs(
            model=type(model).__name__,
            names=tuple(p.name for p in plain),
            timestep=timestep or usual_timestep(forward),
            required=frozenset(p.name for p in plain if p.default is Parameter.empty),
            defaults={p.name: p.default for p in plain if p.default is not Parameter.empty},
            positional=sum(p.kind is not Parameter.KEYWORD_ONLY for p in plain),
            positional_only=sum(p.kind is Parameter.POSITIONAL_ONLY for p in plain),
            variadic=variadic,
            keywords=any(p.kind is Parameter.VAR_KEYWORD for p in parameters),
            as_given=list(signature.parameters) != list(outer.parameters),
            named=timestep is not None,
            known=frozenset(signature.parameters),
            method=method,
            ignored=tuple(map(IgnoredOption, ignore)),
        )
        if timestep is not None and not found._may_take(timestep):
            raise NoTimestepError(timestep, tuple(signature.parameters))
        for option in found.ignored:
            if not (found.keywords or option.argument in found.known):
                close = nearest(option.argument, found.names)
                need = f"did you mean {close!r}?" if close else f"its inputs are {', '.join(found.names)}"
                raise ConfigError("ignore", option.path, need, of="fxcache.transform()")
        return found

    def _may_take(self, name: str) -> bool:
        if name in self.names or (self.variadic is not None and name.startswith(f"{self.variadic}[")):
            return True
        return self.keywords and name.isidentifier()

    def timestep_of(self, inputs: Iterable[str]) -> str | None:
        """Which of a call's `inputs` is the timestep."""
        names = (self.timestep,) if self.named else TIMESTEP_NAMES
        given = inputs if isinstance(inputs, dict) else set(inputs)
        return next((n for n in names if n in given), None)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], numbers: bool = False) -> Bound:
        """All arguments by name. A number given as the timestep becomes a tensor, unless `numbers` stay.

        Raises `ArgumentsError` for a call that the forward does not take.
        """
        bound = Bound(zip(self.names, args[: self.positional], strict=False)) if args else Bound()
        bound.update(kwargs)
        if len(args) > self.positional and self.variadic is not None:
            bound[self.variadic] = args[self.positional :]
        elif len(bound) != len(args) + len(kwargs):
            raise ArgumentsError(self.model, "too many arguments, or one given twice")
        if not self.required <= bound.keys():
            raise ArgumentsError(self.model, f"missing {', '.join(sorted(self.required - bound.keys()))}")
        if not (self.keywords or bound.keys() <= self.known):
            raise ArgumentsError(self.model, f"no input {', '.join(sorted(kwargs.keys() - set(self.names)))}")
        if self.positional_only and not kwargs.keys().isdisjoint(self.names[: self.positional_only]):
            raise ArgumentsError(self.model, "positional-only arguments given by name")
        if self.as_given:
            bound.positional = min(len(args), self.positional)
        if not numbers:
            step = self.numbered_step(bound)
            if step is not None:
                bound[step] = _as_tensor(bound[step], bound)
        return self._shown(bound) if self.ignored or self.method != FORWARD else bound

    def _shown(self, bound: Bound) -> Bound:
        """What the captured method is shown of a call."""
        bound.method, absent = self.method, {}
        for option in self.ignored:
            try:
                bound = option.hidden(bound)
            except AbsentError as error:
                absent[option.path] = error.known
        bound.absent = absent
        return bound

    def numbered_step(self, bound: dict[str, Any]) -> str | None:
        """The name of the timestep, where it is a number."""
        step = self.timestep if self.timestep in bound else self.timestep_of(bound)
        return step if step is not None and type(bound[step]) in (int, float) else None

    def arguments(self, bound: Mapping[str, Any], positional: int) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments of the call that was bound, at least N by position."""
        rest = dict(bound)
        extra = rest.pop(self.variadic, ()) if self.variadic is not None else ()
        first = self.positional if extra else max(positional, self.positional_only)
        args = [rest.pop(name) for name in self.names[:first] if name in rest]
        return [*args, *extra], rest

    def accepting(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ForwardInputs:
        """These, for a forward that took a call which does not fit its signature: a decorator did."""
        names = (*self.names, *(n for n in kwargs if n not in self.names))
        known = self.known.union(names)
        return replace(
            self, names=names, known=known, required=self.required & {*self.names[: len(args)], *kwargs}
        )


class ForwardWatch:
    """The forward of a model, and whether somebody put another in its place.

    inputs: those of the forward that is there now.
    """

    def __init__(
        self,
        model: nn.Module,
        timestep: str | None,
        method: str = FORWARD,
        ignore: Sequence[str] = (),
    ) -> None:
        self._model = model
        self._timestep, self._method, self._ignore = timestep, method, ignore
        self.inputs = ForwardInputs.of(model, timestep, method, ignore)
        self._beneath = forward_beneath(model, method)
        self._seen = self._places()

    def replaced(self) -> bool:
        """Whether it is another one than at the last look. Hooks around it do not count."""
        seen = self._places()
        if seen[0] is self._seen[0] and seen[1] is self._seen[1]:
            return False
        beneath = forward_beneath(self._model, self._method)
        changed = beneath != self._beneath
        if changed:
            self.inputs = ForwardInputs.of(self._model, self._timestep, self._method, self._ignore)
        self._seen, self._beneath = seen, beneath
        return changed

    def _places(self) -> tuple[Any, Any]:
        return self._model.__dict__.get(self._method), getattr(type(self._model), self._method, None)


def usual_timestep(forward: Callable[..., Any]) -> str | None:
    """The parameter of a forward that has a timestep's usual name."""
    parameters = _signature(forward).parameters
    return next((n for n in TIMESTEP_NAMES if n in parameters), None)


def _method(model: nn.Module, name: str) -> Callable[..., Any]:
    if name == FORWARD:
        return forward_beneath(model)
    if callable(getattr(model, name, None)) and not hasattr(nn.Module, name):
        return forward_beneath(model, name)
    bases = (b for b in type(model).__mro__ if b not in nn.Module.__mro__)
    known = (n for base in bases for n, v in vars(base).items() if callable(v) and not n.startswith("_"))
    names = tuple(dict.fromkeys(known))
    raise NoMethodError(type(model).__name__, name, nearest(name, names), names)


def _signature(forward: Callable[..., Any], follow_wrapped: bool = True) -> inspect.Signature:
    try:
        return inspect.signature(forward, follow_wrapped=follow_wrapped)
    except (TypeError, ValueError):  # written in C
        return ANYTHING


def _as_tensor(step: float, bound: Mapping[str, Any]) -> torch.Tensor:
    # A number would be a constant of the graph, and every step another graph.
    device = next((v.device for v in bound.values() if isinstance(v, torch.Tensor)), None)
    dtype = torch.int64 if isinstance(step, int) else torch.float32
    return torch.tensor(step, dtype=dtype, device=device)
