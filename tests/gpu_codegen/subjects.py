"""Small models, and the graphs that fxcache makes of them for a GPU."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fxcache
from fxcache import CacheConfig, CachedTransformer
from fxcache.backends.absent_gpu import target_gpu
from fxcache.capture.call_signature import Call
from fxcache.ops.known_decision import knowing
from fxcache.runtime.specialization import Specialization
from tests.behaviour.zoo import flux, mmdit, qwen, wan
from tests.behaviour.zoo.case import WEIGHT_SEED, ZooCase
from tests.behaviour.zoo.weights import randomise_degenerate_parameters, reproducible_init

from .fake_device import FakeDevice
from .generated import Generated, handing_over

CASES = {"flux": flux.CASES[0], "sd3": mmdit.CASES[0], "wan": wan.CASES[0], "qwen": qwen.CASES[0]}
DBCACHE = "F1B0_W1M0MC3_T1O1_R0.12"
PLAN = fxcache.plan(steps=8, speedup=2.0)


def config_of(setting: str) -> CacheConfig:
    """ "dbcache" with TaylorSeer, or "plan"."""
    return CacheConfig.from_plans(PLAN) if setting == "plan" else CacheConfig.from_string(DBCACHE)


def small(name: str, blocks: int = 2) -> tuple[nn.Module, dict[str, Any]]:
    """A model with `blocks` blocks, one more in a second list, and the arguments of a call."""
    case: ZooCase = CASES[name]
    model_class, config, inputs = case._blueprint()
    fewer = {k: n for k, n in (("num_layers", blocks), ("num_single_layers", 1)) if k in config}
    with reproducible_init(WEIGHT_SEED):
        model = model_class(**{**config, **fewer})
    randomise_degenerate_parameters(model, WEIGHT_SEED)
    return model.eval().requires_grad_(False), inputs


@dataclass(frozen=True)
class Subject:
    """What is compiled: a model by its name in `CASES`, its dtype, the mode, and "dbcache" or "plan"."""

    name: str
    dtype: str
    mode: str
    setting: str

    def __str__(self) -> str:
        return "-".join((self.name, self.dtype, self.mode, self.setting))


@dataclass(frozen=True)
class Steps:
    """A cached model that was compiled for a GPU, and what became of its steps.

    graphs: all that was compiled, in order. crossings: of a hit and of a miss, what crossed between host
    and device while they ran.
    """

    cached: CachedTransformer
    specialization: Specialization
    graphs: list[Generated]
    crossings: dict[bool, list[str]]


@functools.lru_cache(maxsize=8)
def compiled_steps(subject: Subject, arch: str = "sm_90") -> Steps:
    """Compile a miss and a hit of a small model.

    Under a plan the host knows which of the two a step is; else it reads the decision.
    """
    dtype = getattr(torch, subject.dtype)
    with target_gpu(arch), torch.no_grad():
        torch.compiler.reset()
        device = FakeDevice()
        model, inputs = small(subject.name)
        arguments = device.tree(inputs, dtype)
        cached = fxcache.transform(device.move(model, dtype), config_of(subject.setting))
        cached.prepare(arguments)
        fast = fxcache.compile(cached, mode=subject.mode)
        specialization, call = fast.specialization_for(arguments)
        state = allocated(specialization, call, fast.cache_config, device)
        crossings: dict[bool, list[str]] = {}
        # In "staged" what lies around blocks runs eagerly, and there it may make tensors on the device.
        eagerly = device.mode if subject.mode == "staged" else contextlib.nullcontext()
        with handing_over(device) as graphs, eagerly:
            for hit in (False, True):
                device.answer, device.crossings = hit, []
                with knowing(hit if subject.setting == "plan" else None):
                    specialization.run(*call.tensors, *state)
                crossings[hit] = device.crossings
        return Steps(fast, specialization, graphs, crossings)


def allocated(
    specialization: Specialization, call: Call, config: CacheConfig, device: FakeDevice
) -> tuple[Tensor, ...]:
    """Fresh state on the device."""
    with device.mode:
        return tuple(specialization.allocate(call, config).values())
