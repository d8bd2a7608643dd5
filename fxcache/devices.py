"""Kinds of devices: which of them torch can use here, and what it calls their parts.

What is not verified, as none of these was at hand:

* several GPUs: the passes move what meets, which was seen on fake tensors of two devices. It was not run, nor
  compiled as a single graph or CUDA graphs. Packages and engines are for one GPU.
* CUDA, ROCm: a step reads the decision, one wait; outside of `cache_context` also its time, before it begins.
  Tensors of inference mode are compared with one wait more. A timestep on the CPU is copied without waiting
  (elsewhere with), and keeps the operators that use it out of a CUDA graph: give it on the GPU.
* CUDA, ROCm, XPU: a plan's timesteps arrive beside the host, in pinned memory. Elsewhere they are waited for.
* XPU, NPU, HPU: a package is for a device of the same name, which may be stricter than need be.
* MPS: it has no float8, so `history_dtype="float8"` fails there; a package is not compared with the chip.
* `mode="reduce-overhead"` asks for CUDA (or ROCm), though others have graphs, too.
* `history_offload=True` copies from pageable memory, which waits; there is no stream of its own to get wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .torch_private import privateuse_name

BUILT_IN = ("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "xla")  # kinds that torch.autocast knows by itself


def autocast_kinds() -> tuple[str, ...]:
    """All kinds of devices that `torch.autocast` knows, that of a backend outside of torch (npu) included."""
    return (*BUILT_IN, privateuse_name())


def accelerator() -> str | None:
    """The kind of accelerator that torch can use here, such as "cuda", "xpu", "mps"; None without one.

    Example:
        >>> import torch
        >>> from fxcache.devices import accelerator
        >>> (accelerator() is None) == (not torch.accelerator.is_available())
        True
    """
    if not torch.accelerator.is_available():
        return None
    found = torch.accelerator.current_accelerator()
    return None if found is None else found.type


def is_usable(device: torch.device) -> bool:
    """Whether torch can compute on `device` here.

    Example:
        >>> import torch
        >>> from fxcache.devices import is_usable
        >>> is_usable(torch.device("cpu")), is_usable(torch.device("cuda:99"))
        (True, False)
    """
    if device.type in ("cpu", "meta"):
        return True
    if device.type == accelerator():
        return (device.index or 0) < torch.accelerator.device_count()
    try:  # beside the accelerator that torch takes for the current one
        return bool(torch.get_device_module(device.type).is_available())
    except (RuntimeError, AttributeError):  # a kind that this build of torch has no module for
        return False


def name_of(device: torch.device) -> str | None:
    """What its maker calls an accelerator; None where torch does not say."""
    ask = getattr(torch.get_device_module(device.type), "get_device_name", None)
    return None if ask is None else str(ask(device))


def synchronize(device: torch.device) -> None:
    """Wait for all that was given to `device` to do."""
    if device.type == accelerator():
        torch.accelerator.synchronize(device)


def random_states() -> list[torch.Tensor]:
    """States of the random generators of all accelerators; none where none was used yet."""
    module = _with_generators()
    if module is None:
        return []
    if accelerator() == "mps":  # one device, and no index
        return [module.get_rng_state()]
    return [module.get_rng_state(index) for index in range(torch.accelerator.device_count())]


def set_random_states(states: Sequence[torch.Tensor]) -> None:
    """What `random_states` returned, in force again."""
    module = _with_generators()
    if module is None:
        return
    if accelerator() == "mps":
        module.set_rng_state(*states)
        return
    for index, state in enumerate(states):
        module.set_rng_state(state, index)


def _with_generators() -> Any:
    """The module of the accelerator, if it is in use: to ask for its generators would start it."""
    kind = accelerator()
    if kind is None:
        return None
    module: Any = torch.get_device_module(kind)
    started = getattr(module, "is_initialized", None)
    return module if started is None or started() else None
