"""Run one captured case at many configs: the passes are quick, the capture is not."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fxcache import CacheConfig
from fxcache.capture.call_signature import Call, flatten
from fxcache.capture.forward_inputs import ForwardInputs
from fxcache.environment.state_watch import Watch
from fxcache.ir.captured import Capture
from fxcache.ir.program import Program
from fxcache.passes import run_passes
from fxcache.runtime.specialization import Specialization, eager
from fxcache.runtime.transform_call import transform_call

from .case import Inputs, ZooCase
from .nested import tensors_in

UNCACHED = CacheConfig(fn_compute_blocks=1, residual_diff_threshold=0.0)


@dataclass(frozen=True)
class Captured:
    """A model, the inputs that it was captured with, and the capture."""

    model: nn.Module
    inputs: Inputs
    capture: Capture
    timestep: str | None

    def program(self, config: CacheConfig, scope: str = "model") -> Program:
        return run_passes(Program(self.capture, config, scope, self.timestep))

    def call(self, inputs: Inputs) -> Call:
        bound = ForwardInputs.of(self.model).bind((), inputs)
        return flatten(bound, self.model.training)


@functools.lru_cache(maxsize=4)
def captured(case: ZooCase) -> Captured:
    """Capture a case as `transform` would. Raises what capture raises."""
    model, inputs = case.build()
    forward_inputs = ForwardInputs.of(model)
    bound = forward_inputs.bind((), inputs)
    call = flatten(bound, model.training)
    with torch.no_grad():
        program = transform_call(model, UNCACHED, "model", forward_inputs, bound, call.tensors)
    return Captured(model, inputs, program.capture, program.timestep)


@dataclass
class Run:
    """One trajectory of a captured case at one config."""

    captured: Captured
    program: Program
    _state: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, inputs: Inputs) -> list[Tensor]:
        """One step; the inputs must be of the captured kind."""
        call = self.captured.call(inputs)
        guards = self.captured.capture.shapes.also(self.program.assumed)
        specialization = Specialization(self.program, eager(self.program), guards, Watch((), {}))
        assert specialization.accepts(call), "these inputs need another capture"
        with torch.no_grad():
            self._state = self._state or specialization.allocate(call, self.program.config)
            flat = specialization.run(*call.tensors, *self._state.values())
        return tensors_in(self.captured.capture.finish(flat))


def run_original(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    with torch.no_grad():
        return tensors_in(model(**inputs))


def bit_equal(left: Any, right: Any) -> bool:
    """Whether two lists of tensors hold the same bits (a NaN equals a NaN)."""
    return len(left) == len(right) and all(
        a.dtype == b.dtype
        and a.shape == b.shape
        and bool(((a == b) | (a.isnan() & b.isnan())).all() if a.is_floating_point() else torch.equal(a, b))
        for a, b in zip(left, right, strict=True)
    )
