"""A model through a trajectory, and two of these compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.tensorrt import DTYPES, TOLERANCE
from fxcache import CachedTransformer, PackagedTransformer
from fxcache.runtime.stats import ranges

from .rows import CheckFailed
from .settings import STEPS
from .subjects import Subject

LIMIT = {DTYPES[name]: most for name, most in TOLERANCE.items()}
Hits = dict[str, tuple[bool, ...]]


@dataclass(frozen=True)
class Run:
    """outputs: of each call. hits: by context."""

    outputs: list[Tensor]
    hits: Hits

    @property
    def cached(self) -> str:
        """Cached steps in words, of the context that decides."""
        first = next(iter(self.hits.values()))
        return ranges(tuple(i for i, hit in enumerate(first) if hit)) or "none"


def run(
    model: CachedTransformer | PackagedTransformer, subject: Subject, contexts: Sequence[str] = ("cond",)
) -> Run:
    """One trajectory; each step is called in every context. Outputs are kept as they were returned: no later
    step may write to them."""
    outputs = []
    with torch.no_grad():
        for step in range(STEPS):
            for name in contexts:
                with model.cache_context(name):
                    outputs.append(model(**subject.call(step, STEPS))[0])
    return Run(outputs, {name: model.stats()[name].hits for name in contexts})


def plain(subject: Subject) -> list[Tensor]:
    """The outputs of the model with no cache."""
    with torch.no_grad():
        return [subject.model(**subject.call(step, STEPS))[0] for step in range(STEPS)]


def largest_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest relative error of a step (L2 over its output); NaN where there is one in either."""
    errors = [
        (a.double() - b.double()).norm() / b.double().norm()
        if a.device.type in ("cpu", "cuda")
        else (a.float() - b.float()).norm() / b.float().norm()  # others may have no float64
        for a, b in zip(found, expected, strict=True)
    ]
    return torch.stack(errors).max().item()  # unlike Python's, torch's hands NaN on


def require_close(
    found: Sequence[Tensor], expected: Sequence[Tensor], dtype: torch.dtype, what: str = ""
) -> float:
    """The largest error. Raises `CheckFailed`: it is beyond what the dtype explains."""
    error = largest_error(found, expected)
    if math.isnan(error) or error > LIMIT[dtype]:
        why = f"error {error:.2e} over {LIMIT[dtype]:g}"
        raise CheckFailed(f"{what}: {why}" if what else why, {"error": error})
    return error


def require_alike(found: Run, expected: Run, dtype: torch.dtype, what: str = "") -> float:
    """As `require_close`; other hits fail, too."""
    if found.hits != expected.hits:
        why = f"hits {found.hits} and not {expected.hits}"
        raise CheckFailed(f"{what}: {why}" if what else why)
    return require_close(found.outputs, expected.outputs, dtype, what)
