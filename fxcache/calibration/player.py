"""`Player`: stands in a denoiser's place and plays a plan over it, as a plain loop over whole outputs.

It knows no graph and no scheduler: calibration runs cached samplings with it, and tests hold graphs
against it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..capture.forward_inputs import Bound, ForwardInputs
from ..capture.root_hooks import FORWARD
from ..errors import PlanError
from ..plans import Plan
from ..runtime.module_proxy import ModuleProxy
from ..torch_private import pytree

Row = Sequence[float]
OWN: Row = (1.0,)


@dataclass(frozen=True)
class Played:
    """One call of the denoiser.

    step: counted from 0. stream: which of the calls of this step (guidance may take two). timestep: the
        mean of what was given as it. inputs: the arguments by name.
    value: the tensors that the model returned; None at a step that is not computed.
    given: the tensors that were returned in their place.

    Example:
        >>> import torch
        >>> from fxcache.capture.forward_inputs import Bound
        >>> from fxcache.calibration.player import Played
        >>> value = [torch.ones(2)]
        >>> Played(step=0, stream=1, timestep=900.0, inputs=Bound(), value=value, given=value).stream
        1
    """

    step: int
    stream: int
    timestep: float
    inputs: Bound
    value: list[Any] | None
    given: list[Any]


class Player(ModuleProxy):
    """The denoiser `original` with what `plan` says in place of its outputs; without a plan, its outputs.

    Calls with one and the same timestep are the streams of one step, each with a history of its own. A
    timestep that goes back begins a new run. Where a timestep is not the plan's, this step and the rest of
    the run compute, uncorrected. Sums are taken in float32 at least.

    Args:
        observe: is told of each call, after it.
        timestep: the name of the forward's timestep; by default found by its usual names.
        method: what is played, where the sampler enters the denoiser by another method than its forward,
            which runs as it is then.

    Example:
        >>> import fxcache
        >>> from fxcache.embedded import load_pipeline, sample
        >>> from fxcache.calibration.player import Player
        >>> pipe, steps = load_pipeline(), []
        >>> player = Player(pipe.transformer, fxcache.plan(4, 2), observe=lambda call: steps.append(call))
        >>> pipe.transformer = player
        >>> sample(pipe, [7], num_inference_steps=4).shape
        torch.Size([1, 1, 28, 28])
        >>> [call.value is not None for call in steps]
        [True, False, False, True]
        >>> player.begin()  # as after every run
    """

    KEPT: ClassVar[frozenset[str]] = ModuleProxy.KEPT | {"_plan", "_observe", "_inputs", "_run", "_method"}
    _plan: Plan | None
    _observe: Callable[[Played], object] | None
    _inputs: ForwardInputs
    _run: _Run
    _method: str

    def __init__(
        self,
        original: nn.Module,
        plan: Plan | None = None,
        *,
        observe: Callable[[Played], object] | None = None,
        timestep: str | None = None,
        method: str = FORWARD,
    ) -> None:
        super().__init__(original)
        if plan is not None and plan.level != "output":
            raise PlanError(
                f'level "{plan.level}" is not the model\'s output', 'Give a plan of level "output".'
            )
        self._plan, self._observe = plan, observe
        self._method = method
        self._inputs = ForwardInputs.of(original, timestep, method)
        self._run = _Run()

    def begin(self) -> None:
        """The next call is the first of a run."""
        self._run = _Run()

    def _reset_stateful_cache(self, *args: Any, **kwargs: Any) -> None:  # as diffusers does after a run
        self.begin()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the plan says of this call; arguments and structure of the result are the original's."""
        return self.original(*args, **kwargs) if self._method != FORWARD else self._play(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return self._play if name == self.__dict__.get("_method") else super().__getattr__(name)

    @property
    def _entries(self) -> frozenset[str]:
        return super()._entries | {self._method}

    def _play(self, *args: Any, **kwargs: Any) -> Any:
        run_original = self.original if self._method == FORWARD else getattr(self.original, self._method)
        inputs = self._inputs.bind(args, kwargs, numbers=True)
        time = _time(self._inputs, inputs)
        if self._run.went_back(time):
            self.begin()
        run = self._run
        run.advance(time)
        row = self._row(run, time)
        history = run.history()
        value = None
        if row[0] != 0:
            value, run.structure = pytree.tree_flatten(run_original(*args, **kwargs))
            given = weighted(row, [value, *history])
            history.insert(0, _copied(value))
            del history[self._plan.values if self._plan is not None else 0 :]
        else:
            given = _copied(weighted(row[1:], history))
        if self._observe is not None:
            self._observe(Played(run.step, run.stream, time, inputs, value, given))
        return pytree.tree_unflatten(given, run.structure)

    def _row(self, run: _Run, time: float) -> Row:
        """Of this step; its own value alone where the plan does not belong."""
        plan = self._plan
        if plan is None or run.strayed or run.step >= plan.steps:
            return OWN
        if plan.timesteps is not None and not _same_time(plan.timesteps[run.step], time):
            run.strayed = True
            return OWN
        return plan.weights[run.step]


class _Run:
    """Where a run stands.

    histories: of each stream the tensors of the last computed values, the latest first.
    """

    def __init__(self) -> None:
        self.step, self.stream = -1, 0
        self.times: list[float] = []
        self.strayed = False
        self.structure: Any = None
        self.histories: list[list[list[Any]]] = []

    def went_back(self, time: float) -> bool:
        if len(self.times) < 2:
            return False
        first, second, last = self.times[0], self.times[1], self.times[-1]
        return (time - last) * (second - first) < 0

    def advance(self, time: float) -> None:
        if self.times and time == self.times[-1]:
            self.stream += 1
        else:
            self.step, self.stream = self.step + 1, 0
            self.times.append(time)

    def history(self) -> list[list[Any]]:
        while len(self.histories) <= self.stream:
            self.histories.append([])
        return self.histories[self.stream]


def weighted(row: Row, values: Sequence[list[Any]]) -> list[Any]:
    """The sums of tensors by place; what is no floating-point tensor is that of the first value.

    Raises:
        PlanError: a weight that is not 0 has no value.

    Example:
        >>> import torch
        >>> from fxcache.calibration.player import weighted
        >>> weighted((2, -1), [[torch.ones(2), "a"], [torch.zeros(2), "b"]])
        [tensor([2., 2.]), 'a']
    """
    used = [(w, value) for w, value in zip(row, values, strict=False) if w != 0]
    if sum(w != 0 for w in row) != len(used):
        raise PlanError(
            "a step of the plan is made of values that this run did not compute",
            "Play it from the first step of a run, with the same calls of the model in each step.",
        )
    if len(used) == 1 and used[0][0] == 1:
        return used[0][1]
    return [
        _sum([(w, value[place]) for w, value in used]) if _is_floating(first) else first
        for place, first in enumerate(values[0])
    ]


def _copied(values: list[Any]) -> list[Any]:
    """The same, of which a sampler that writes to what it was given leaves the history alone."""
    return [v.clone() if isinstance(v, Tensor) else v for v in values]


def _sum(terms: list[tuple[float, Tensor]]) -> Tensor:
    dtype = terms[0][1].dtype
    wide = torch.promote_types(dtype, torch.float32)
    total = terms[0][1].to(wide) * terms[0][0]
    for weight, tensor in terms[1:]:
        total = total + tensor.to(wide) * weight
    return total.to(dtype)


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _time(inputs: ForwardInputs, bound: Bound) -> float:
    name = inputs.timestep if inputs.timestep in bound else inputs.timestep_of(bound)
    if name is None:
        raise PlanError(
            f"{inputs.model} is given no timestep, by which its steps could be told apart",
            "Name the input that holds it: timestep=...",
        )
    value = bound[name]
    return float(value.double().mean()) if isinstance(value, Tensor) else float(value)


def _same_time(planned: float, time: float) -> bool:
    return math.isclose(planned, time, rel_tol=1e-4, abs_tol=1e-6)
