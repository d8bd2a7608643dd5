"""Other samplers in the place of a pipeline's own: fewer steps of a better solver rival a cache, too."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from diffusers.schedulers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

SOLVERS = {"dpm++": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}  # both of order 2


def exchanged(scheduler: Any, solver: str) -> Any:
    """A scheduler of diffusers that samples what `scheduler` does, by another solver.

    scheduler: of a diffusion, or of a flow (those have no `prediction_type`). solver: "dpm++"
        (DPM-Solver++ 2M, arXiv 2211.01095) or "unipc" (arXiv 2302.04867).

    Example:
        >>> from diffusers import FlowMatchEulerDiscreteScheduler
        >>> from fxcache.benchmark.solvers import exchanged
        >>> found = exchanged(FlowMatchEulerDiscreteScheduler(shift=3.0), "unipc")
        >>> type(found).__name__, found.config.flow_shift, found.config.prediction_type
        ('UniPCMultistepScheduler', 3.0, 'flow_prediction')
    """
    kind, own = SOLVERS[solver], scheduler.config
    if "prediction_type" in own:
        return kind.from_config(own)
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": own["shift"]}
    shared = ("num_train_timesteps", "use_dynamic_shifting", "time_shift_type")
    return kind(**flow, **{name: own[name] for name in shared if name in own})


@contextlib.contextmanager
def solving(pipe: Any, solver: str | None) -> Iterator[None]:
    """Within the block `pipe` samples by this solver; None for its own.

    Example:
        >>> from fxcache.benchmark.solvers import solving
        >>> from fxcache.embedded import load_pipeline
        >>> pipe = load_pipeline()
        >>> with solving(pipe, "dpm++"):
        ...     type(pipe.scheduler).__name__
        'DPMSolverMultistepScheduler'
        >>> type(pipe.scheduler).__name__
        'FlowMatchEulerDiscreteScheduler'
    """
    own = pipe.scheduler
    if solver is not None:
        pipe.scheduler = exchanged(own, solver)
    try:
        yield
    finally:
        pipe.scheduler = own
