"""What one run was seen to do: the latents that the denoisers were called with, and their outputs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import CalibrationError
from .player import Played

ELEMENTS = 2**16  # of a run's latents that are kept: enough for a handful of weights a step
GUIDED = (3, 2)  # how many copies of the latents guidance may put into one call


@dataclass(frozen=True)
class Step:
    """Where a step belongs: the denoiser's name, its timestep, and the calls of it that the step made.

    Example:
        >>> from fxcache.calibration.record import Step
        >>> Step(denoiser="transformer", timestep=999.0, calls=2).calls
        2
    """

    denoiser: str
    timestep: float
    calls: int


@dataclass(frozen=True)
class Record:
    """One run. Calls of a step, and the parts of a batch that see the same latents, are its streams.

    latents: [n, elements] float32. outputs: [n, streams, elements] float32, 0 where none was computed.
    copies: how many parts of a batch see the same latents. moving: [all elements] bool, the ones kept: what
        never changes, such as a picture to be edited beside the latents, is none of them.

    Example:
        >>> import torch
        >>> from fxcache.calibration.record import Record, Step
        >>> steps = (Step("transformer", 1.0, 1), Step("transformer", 0.5, 1))
        >>> kept = torch.ones(5, dtype=torch.bool)
        >>> Record(steps, torch.zeros(2, 5), torch.zeros(2, 1, 5), copies=1, moving=kept).streams
        1
    """

    steps: tuple[Step, ...]
    latents: Tensor
    outputs: Tensor
    copies: int
    moving: Tensor

    @property
    def streams(self) -> int:
        """How many outputs of a step go into the next latents."""
        return self.outputs.shape[1]


class Recorder:
    """Is told of every call of a run, and makes the run's `Record` of them.

    Example:
        >>> from fxcache.calibration.player import Player
        >>> from fxcache.calibration.record import Recorder
        >>> from fxcache.embedded import load_pipeline, sample
        >>> pipe, recorder = load_pipeline(), Recorder()
        >>> pipe.transformer = Player(pipe.transformer, observe=recorder.observer("transformer"))
        >>> _ = sample(pipe, [7], num_inference_steps=3)
        >>> record = recorder.record()
        >>> record.latents.shape, record.outputs.shape
        (torch.Size([3, 784]), torch.Size([3, 1, 784]))
    """

    def __init__(self) -> None:
        self._calls = list[_Call]()

    def observer(self, denoiser: str) -> Any:
        """What a player of `denoiser` is to tell of its calls."""
        return lambda played: self._calls.append(_Call.of(denoiser, played))

    def record(self, like: Record | None = None) -> Record:
        """Of all calls so far; with the same elements as `like`, the plain run's.

        Raises:
            CalibrationError: they are not those of one run with one result of the denoiser a step.
        """
        if not self._calls:
            raise CalibrationError(
                "the run called no denoiser",
                "Let the sampler call the model that it is given; where it calls another method than the "
                "forward, calibrate fxcache.transform(model, method=...).",
            )
        grouped = [list(g) for _, g in itertools.groupby(self._calls, key=lambda c: (c.denoiser, c.step))]
        _require_one_run(grouped)
        if len(grouped) < 2:
            raise CalibrationError("a run has one step", "Calibrate runs of at least 2 steps.")
        copies = _copies(grouped) if like is None else like.copies
        sizes = {call.latents.shape for call in self._calls}
        if len(sizes) > 1:
            raise CalibrationError(
                f"the latents of a run change their shape: {', '.join(map(str, map(tuple, sizes)))}",
                "Calibrate the parts of the sampling one by one: calibrate(model, run=..., runs=...).",
            )
        latents = torch.stack([_parts(calls[0].latents, copies)[0] for calls in grouped])
        streams = max(map(len, grouped)) * copies
        outputs = torch.zeros(len(grouped), streams, latents.shape[1])
        for step, calls in enumerate(grouped):
            for stream, call in enumerate(calls):
                if call.output is not None:
                    outputs[step, stream * copies : (stream + 1) * copies] = _parts(call.output, copies)
        moving = (latents != latents[0]).any(0) if like is None else like.moving
        steps = tuple(Step(calls[0].denoiser, calls[0].timestep, len(calls)) for calls in grouped)
        return Record(steps, latents[:, moving], outputs[:, :, moving], copies, moving)


@dataclass(frozen=True)
class _Call:
    """latents, output: [batch, elements] float32, the same elements of both."""

    denoiser: str
    step: int
    timestep: float
    latents: Tensor
    output: Tensor | None

    @staticmethod
    def of(denoiser: str, played: Played) -> _Call:
        given = _tensors(played.given)
        if not given:
            raise CalibrationError(f"{denoiser} returns no tensor", "Give a model whose output is one.")
        sample, whole = _sample(played, given)
        output = None if played.value is None else _as_batch(_tensors(played.value), whole)
        shape = _as_batch(given, whole).shape
        common = tuple(slice(0, min(a, b)) for a, b in zip(sample.shape, shape, strict=True))
        chosen = _chosen(sample[common])
        return _Call(
            denoiser,
            played.step,
            played.timestep,
            chosen(sample[common]),
            None if output is None else chosen(output[common]),
        )


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    return [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]


def _sample(played: Played, outputs: list[Tensor]) -> tuple[Tensor, int]:
    """The latents among the inputs; and of how many tensors they are a list, 0 for one tensor.

    They are the first input of the output's shape; else the first that the output is a part of, or that is
    a part of the output (more channels, for what is painted in, or for a learned variance).
    """
    inputs = [value for value in played.inputs.values() if _is_sample(value)]
    alike = [value for value in inputs if isinstance(value, Tensor) and value.shape == outputs[0].shape]
    for value in (*alike, *inputs):
        if isinstance(value, Tensor):
            if value.ndim == outputs[0].ndim and value.shape[0] == outputs[0].shape[0] and value.ndim > 1:
                return value, 0
        elif value[0].ndim == outputs[0].ndim and len(value) <= len(outputs):
            return torch.stack(list(value)), len(value)
    shape = tuple(outputs[0].shape)
    raise CalibrationError(
        f"no input of the denoiser is like its output, of shape {shape}",
        "Calibrate the module that maps latents to an output of their shape.",
    )


def _is_sample(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(_is_sample(v) and v.shape == value[0].shape for v in value)
    return isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 1


def _as_batch(tensors: list[Tensor], whole: int) -> Tensor:
    return torch.stack(tensors[:whole]) if whole else tensors[0]


def _chosen(like: Tensor) -> Any:
    """A function that takes some elements of each of a batch: [batch, elements], the same every time."""
    batch, each = like.shape[0], like[0].numel()
    most = max(ELEMENTS // batch, 1)
    places = None
    if each > most:
        places = torch.randint(each, (most,), generator=torch.Generator().manual_seed(0))

    def choose(tensor: Tensor) -> Tensor:
        flat = tensor.detach().flatten(1)
        chosen = flat if places is None else flat[:, places.to(flat.device)]
        return chosen.float().cpu().clone()

    return choose


def _parts(batch: Tensor, copies: int) -> Tensor:
    return batch.reshape(copies, -1)


def _copies(grouped: list[list[_Call]]) -> int:
    """How many parts of the batch hold the same latents in every step: guidance in one call."""

    def same(calls: list[_Call], copies: int) -> bool:
        found = calls[0].latents
        if found.shape[0] % copies:
            return False
        parts = _parts(found, copies)
        return all(torch.equal(parts[0], part) for part in parts[1:])

    return next((n for n in GUIDED if all(same(calls, n) for calls in grouped)), 1)


def _require_one_run(grouped: list[list[_Call]]) -> None:
    names = [name for name, _ in itertools.groupby(calls[0].denoiser for calls in grouped)]
    if len(names) != len(set(names)):
        raise CalibrationError(
            f"the denoisers {', '.join(sorted(set(names)))} are called in turns",
            "Calibrate one of them: calibrate(model, run=..., runs=...).",
        )
    for name in names:
        own = [calls for calls in grouped if calls[0].denoiser == name]
        numbers = [calls[0].step for calls in own]
        if numbers != list(range(len(own))):
            raise CalibrationError(
                f"{name}'s timestep went back within a run",
                "Let a run draw once: one call of the pipeline, one trajectory.",
            )
        for calls in own:
            if any(not torch.equal(calls[0].latents, other.latents) for other in calls[1:]):
                raise CalibrationError(
                    f"{name} is called twice at timestep {calls[0].timestep:g} with different latents, as a "
                    "second-order solver such as Heun's does",
                    "Use a scheduler that calls the model once a step: Euler, DPM++ 2M, UniPC, DDIM.",
                )
        counts = sorted({len(calls) for calls in own})
        if len(counts) > 1:
            raise CalibrationError(
                f"{name} is called {' or '.join(map(str, counts))} times in a step of one run",
                "Keep guidance on in all steps, or off: the calls of every step must be the same.",
            )
