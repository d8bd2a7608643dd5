"""Forecasts that are guided by a fresh front: are they worth the block that they run in every hit?

    python -m bench.probes                 # the embedded model, 28 steps

A prototype beside fxcache: the model's output is forecast from the last two (or three) computed ones, at
schedules known beforehand, in a closed loop. Prints PSNR in dB to the plain pictures, mean / worst, on seeds
from 2000.

line        by the number of the step, with no look at the front (TaylorSeer of order 1)
dicache     y2 + g (y1 - y2), g = |f - f2| / |f1 - f2| within 1 to 1.5 (DiCache, arXiv 2508.17356); 1 is the
            last computed step, 2 the one before, f the first block's residual
free        the same, g as it comes
project     g by least squares of f on f1 and f2, of a picture
tap         for each token the best, on f, of reuse, a line and a parabola (TAP, arXiv 2603.03792)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import fxcache
from fxcache.calibration.results import pictures, psnr
from fxcache.embedded import load_pipeline, load_transformer, sample

STEPS = 28
FIRST_SEED = 2000
Computed = tuple[float, Tensor, Tensor]  # step, output, front residual
Forecast = Callable[[float, Tensor, Sequence[Computed]], Tensor]


def line(step: float, front: Tensor, history: Sequence[Computed]) -> Tensor:
    return _between(1 + _ahead(step, history), history)


def dicache(step: float, front: Tensor, history: Sequence[Computed]) -> Tensor:
    return _between(_pace(front, history).clamp(1, 1.5), history)


def free(step: float, front: Tensor, history: Sequence[Computed]) -> Tensor:
    return _between(_pace(front, history), history)


def project(step: float, front: Tensor, history: Sequence[Computed]) -> Tensor:
    (_, _, last), (_, _, before) = history[:2]
    moved = last - before
    along = ((front - before) * moved).sum((1, 2), keepdim=True)
    return _between(along / moved.square().sum((1, 2), keepdim=True), history)


def tap(step: float, front: Tensor, history: Sequence[Computed]) -> Tensor:
    fronts, outputs = [], []
    for count in range(1, len(history) + 1):
        weights = _lagrange(step, [at for at, _, _ in history[:count]])
        outputs.append(sum(w * y for w, (_, y, _) in zip(weights, history, strict=False)))
        fronts.append(sum(w * f for w, (_, _, f) in zip(weights, history, strict=False)))
    errors = torch.stack([(f - front).abs().mean(-1) for f in fronts])  # type: ignore[operator]
    best = errors.argmin(0)[None, :, :, None]
    stacked = torch.stack(outputs)  # type: ignore[arg-type]
    return torch.gather(stacked, 0, best.expand(1, *stacked.shape[1:])).squeeze(0)


METHODS: dict[str, Forecast] = {
    "line": line,
    "dicache": dicache,
    "free": free,
    "project": project,
    "tap": tap,
}


def _ahead(step: float, history: Sequence[Computed]) -> float:
    return (step - history[0][0]) / (history[0][0] - history[1][0])


def _pace(front: Tensor, history: Sequence[Computed]) -> Tensor:
    (_, _, last), (_, _, before) = history[:2]
    return (front - before).abs().mean() / (last - before).abs().mean()


def _between(weight: Any, history: Sequence[Computed]) -> Tensor:
    (_, last, _), (_, before, _) = history[:2]
    return before + weight * (last - before)


def _lagrange(step: float, places: Sequence[float]) -> list[float]:
    found = []
    for place in places:
        weight = 1.0
        for other in places:
            weight *= 1.0 if other == place else (step - other) / (place - other)
        found.append(weight)
    return found


class _Stop(Exception):
    """The front is known: a hit needs no more."""


class Probed:
    """The embedded model, of which only some steps are computed whole."""

    def __init__(self, computed: Sequence[bool], forecast: Forecast) -> None:
        self.model = load_transformer()
        self._computed, self._forecast = computed, forecast
        self._step, self._history, self._front = 0, list[Computed](), torch.empty(0)
        self._whole = self.model.forward
        first: nn.Module = self.model.transformer_blocks[0]
        first.register_forward_hook(self._look, with_kwargs=True)
        self.model.forward = self._run  # type: ignore[method-assign]

    def _look(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self._front = output[1] - kwargs["hidden_states"]
        if not self._computed[self._step]:
            raise _Stop

    def _run(self, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        try:
            output = self._whole(*args, **kwargs)[0]
            self._history = [(float(self._step), output, self._front), *self._history[:2]]
        except _Stop:
            if len(self._history) == 1:
                output = self._history[0][1]
            else:
                output = self._forecast(float(self._step), self._front, self._history)
        self._step += 1
        return (output,)


def schedules() -> dict[str, list[bool]]:
    """By name, which steps are computed."""
    found = {f"every {n}": [step < 3 or (step - 2) % n == 0 for step in range(STEPS)] for n in (2, 3)}
    for speedup in (2, 3):
        computed = fxcache.plan(STEPS, speedup).computed
        found[f"plan {speedup}x"] = [step in computed for step in range(STEPS)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.probes", description=__doc__)
    parser.add_argument("--pictures", type=int, default=20)
    count = parser.parse_args().pictures
    torch.set_num_threads(1)

    def draw(model: nn.Module) -> list[Tensor]:
        seeds, labels = range(FIRST_SEED, FIRST_SEED + count), [i % 10 for i in range(count)]
        return pictures(sample(load_pipeline(model), labels, seeds=seeds, num_inference_steps=STEPS))

    plain = draw(load_transformer())
    print("| schedule | " + " | ".join(METHODS) + " |\n" + "| --- " * (len(METHODS) + 1) + "|")
    for name, computed in schedules().items():
        cells = []
        for forecast in METHODS.values():
            values = psnr(plain, draw(Probed(computed, forecast).model))
            cells.append(f"{sum(values) / count:.1f} / {min(values):.1f}")
        print(f"| {name} ({STEPS / sum(computed):.2f}x) | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
