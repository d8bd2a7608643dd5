"""Compiled functions that outlive any number of changes of the model: LoRA scales, swapped adapters.

The compiler keeps code for each state of a model that it has met, up to a limit; a function that must
compile whole then fails, where `torch.compile` of the model would go on without the compiler.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch

from ..torch_private import FailOnRecompileLimitHit, forget_compiled
from .host.dispatch import Runner

LIMIT = 32  # states of a model for which code is kept
HAS_LIMIT = "recompile_limit" in inspect.signature(torch.compile).parameters  # since torch 2.12
RESTARTS = 8  # times that all code is dropped and compiling starts over, before it is given up

log = logging.getLogger("fxcache")


def compiled(function: Callable[..., Any], options: dict[str, Any]) -> Runner:
    """`torch.compile(function, **options)` that starts over at the limit, and in the end runs `function`.

    Nothing has run when the compiler meets the limit: the call is simply made again. With torch 2.11 the
    limit is the compiler's own, 8 unless it was told otherwise.
    """
    options = {"recompile_limit": LIMIT, **options} if HAS_LIMIT else options
    run: Runner = torch.compile(function, **options)
    restarts = 0

    def running(*args: Any, **kwargs: Any) -> Any:
        nonlocal run, restarts
        try:
            return run(*args, **kwargs)
        except FailOnRecompileLimitHit:
            restarts += 1
        name = getattr(function, "__qualname__", "a stage")
        if restarts > RESTARTS:
            log.warning("%s is no longer compiled: what it depends on changed too often", name)
            run = function
        else:
            log.info("%s is compiled anew: what it depends on changed often", name)
            forget_compiled(function)
        return running(*args, **kwargs)

    return running
