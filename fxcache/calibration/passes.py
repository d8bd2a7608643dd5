"""From records of runs to what rows are fitted on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch

from ..errors import CalibrationError
from ..plans.fit import Pass, Rows, products
from ..plans.response import Response
from .record import Record, Step


def observed(
    plain: Sequence[Record],
    seen: Sequence[Record],
    rows: Rows,
    responses: tuple[Response | None, ...],
    answers: Answers | None = None,
) -> Pass:
    """A pass in which `rows` were played, and `seen` recorded; of the plain runs themselves, too.

    Example:
        >>> import torch
        >>> from fxcache.calibration.passes import observed
        >>> from fxcache.calibration.record import Record, Step
        >>> steps, kept = (Step("model", 1.0, 1), Step("model", 0.5, 1)), torch.ones(5, dtype=torch.bool)
        >>> plain = [Record(steps, torch.zeros(2, 5), torch.zeros(2, 1, 5), 1, kept)]
        >>> observed(plain, plain, ((1.0,), (1.0,)), (None, None)).products.shape
        torch.Size([1, 4, 4])
    """
    found = [products(p.latents - s.latents, s.outputs) for p, s in zip(plain, seen, strict=True)]
    starts = tuple(start for start, _ in parts(plain[0].steps))
    known = answers.known() if answers is not None else ((), ())
    return Pass(rows, starts, plain[0].streams, responses, torch.stack(found), *known)


class Answers:
    """How a model's outputs answer to errors of its latents, from all passes that were played.

    Example:
        >>> import torch
        >>> from fxcache.calibration.passes import Answers
        >>> from fxcache.calibration.record import Record, Step
        >>> steps, kept = (Step("model", 1.0, 1), Step("model", 0.5, 1)), torch.ones(5, dtype=torch.bool)
        >>> plain = Record(steps, torch.zeros(2, 5), torch.ones(2, 1, 5), 1, kept)
        >>> off = Record(steps, torch.tensor([[0.0] * 5, [1.0] * 5]), torch.full((2, 1, 5), 3.0), 1, kept)
        >>> answers = Answers(2)
        >>> answers.add([plain], [off])
        >>> answers.known()
        ((2.0, 2.0), (0.0, 0.0))
    """

    def __init__(self, steps: int) -> None:
        self._along, self._all, self._errors = np.zeros((3, steps))  # sums over runs and streams, of squares

    def add(self, plain: Sequence[Record], seen: Sequence[Record]) -> None:
        """Learn from a pass, of the steps that it computed."""
        for p, s in zip(plain, seen, strict=True):
            for step in range(len(p.steps)):
                if s.outputs[step].any():
                    off = (s.latents[step] - p.latents[step]).double()
                    changed = (s.outputs[step] - p.outputs[step]).double()
                    self._along[step] += float((changed * off).sum())
                    self._all[step] += float(changed.square().sum())
                    self._errors[step] += float(off.square().sum()) * p.streams

    def known(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Echoes and scatters, as `Pass` has them.

        Measured where a pass computed and its latents were off, and interpolated between; () if nowhere.
        """
        steps = np.flatnonzero(self._errors)
        if not len(steps):
            return (), ()
        echoes, whole = self._along[steps] / self._errors[steps], self._all[steps] / self._errors[steps]
        scatters = np.sqrt(np.maximum(whole - echoes**2, 0))
        every = range(len(self._errors))
        of_all: list[tuple[float, ...]] = [
            tuple(np.interp(every, steps, x).tolist()) for x in (echoes, scatters)
        ]
        return of_all[0], of_all[1]


def parts(steps: Sequence[Step]) -> list[tuple[int, list[Step]]]:
    """The steps of each denoiser, with the number of the first.

    Example:
        >>> from fxcache.calibration.passes import parts
        >>> from fxcache.calibration.record import Step
        >>> [start for start, _ in parts([Step("a", 3.0, 1), Step("a", 2.0, 1), Step("b", 1.0, 1)])]
        [0, 2]
    """
    found, start = [], 0
    for _, group in itertools.groupby(steps, key=lambda s: s.denoiser):
        own = list(group)
        found.append((start, own))
        start += len(own)
    return found


def require_alike(first: Record, other: Record, run: int) -> None:
    """Raise CalibrationError where a run has other steps than the first.

    Example:
        >>> import torch
        >>> from fxcache.calibration.passes import require_alike
        >>> from fxcache.calibration.record import Record, Step
        >>> kept = torch.ones(5, dtype=torch.bool)
        >>> record = Record((Step("model", 1.0, 1),), torch.zeros(1, 5), torch.zeros(1, 1, 5), 1, kept)
        >>> require_alike(record, record, run=1)
    """
    same = [(s.denoiser, s.calls) for s in first.steps] == [(s.denoiser, s.calls) for s in other.steps]
    if not same or first.copies != other.copies:
        raise CalibrationError(
            f"run {run} makes other calls than run 0: {_said(other)}, not {_said(first)}",
            "Calibrate on runs with the same number of steps and the same guidance.",
        )
    for a, b in zip(first.steps, other.steps, strict=True):
        if not math.isclose(a.timestep, b.timestep, rel_tol=1e-4, abs_tol=1e-6):
            raise CalibrationError(
                f"run {run} has a timestep {b.timestep:g} where run 0 has {a.timestep:g}",
                "Calibrate on runs with one schedule of timesteps: one size, one number of steps.",
            )


def _said(record: Record) -> str:
    return f"{len(record.steps)} steps of {sum(step.calls for step in record.steps)} calls"
