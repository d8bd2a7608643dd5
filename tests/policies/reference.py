"""The policies a second time: plain Python numbers and loops, as their makers' code has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fxcache import (
    Budget,
    CacheConfig,
    DBCache,
    EasyCache,
    FixedInterval,
    ForecastError,
    GrowingWindow,
    MagCache,
    Policy,
    TaylorSeer,
    TeaCache,
)


def size(value: Tensor) -> float:
    return value.float().abs().mean().item()


@dataclass
class Run:
    """What can be seen of a run beforehand, step by step.

    fronts: front residuals. samples: what is denoised. norms: what the first projection is given. outputs:
    what the plain model returns.
    """

    fronts: Sequence[Tensor]
    samples: Sequence[Tensor]
    norms: Sequence[Tensor]
    outputs: Sequence[Tensor]


@dataclass
class Reference:
    """Decides steps 0, 1, 2 ... of a run: warmup, the longest run of hits, and the policy."""

    config: CacheConfig
    run: Run
    hits: list[bool] = field(default_factory=list)
    spent: float = 0.0
    product: float = 1.0
    windows: float = 0.0

    def decide_all(self) -> list[bool]:
        for step in range(len(self.run.samples)):
            self.hits.append(self._decide(step))
        return self.hits

    @property
    def computed(self) -> list[int]:
        return [step for step, hit in enumerate(self.hits) if not hit]

    def _decide(self, step: int) -> bool:
        config = self.config
        number = self._number(step) if self.computed else math.inf
        most = config.max_continuous_cached_steps or math.inf
        limited = step < config.max_warmup_steps or not self.computed or self._in_a_row() >= most
        hit = not limited and number < config.residual_diff_threshold
        if hit:
            self.spent = number
        else:
            self.spent, self.product = 0.0, 1.0
            if isinstance(config.policy, GrowingWindow) and number == math.inf and self.computed:
                self.windows += 1
        return hit

    def _in_a_row(self) -> int:
        return len(self.hits) - 1 - (self.computed[-1] if self.computed else -1)

    def _number(self, step: int) -> float:
        policy, run, last = self.config.policy, self.run, self.computed[-1]
        return self._of(policy, run, step, last)

    def _of(self, policy: Policy, run: Run, step: int, last: int) -> float:
        if isinstance(policy, DBCache):
            return relative(run.fronts[step], run.fronts[last])
        if isinstance(policy, ForecastError):
            return relative(run.fronts[step], self._expected(step))
        if isinstance(policy, Budget):
            return self.spent + relative(run.fronts[step], run.fronts[step - 1])
        if isinstance(policy, TeaCache):
            change, total = relative(run.norms[step], run.norms[step - 1]), 0.0
            for power, coefficient in enumerate(reversed(tuple(policy.coefficients))):
                total += coefficient * change**power
            return self.spent + total
        if isinstance(policy, EasyCache):
            if len(self.computed) < 2:
                return math.nan
            b, c = self.computed[-2:]
            gain = size(run.outputs[c] - run.outputs[b]) / size(run.samples[c] - run.samples[b])
            moved = size(run.samples[step] - run.samples[step - 1])
            return self.spent + gain * moved / size(run.outputs[c])
        if isinstance(policy, MagCache):
            self.product *= policy.ratios[step] if step < len(policy.ratios) else 1.0
            return self.spent + abs(1 - self.product)
        if isinstance(policy, FixedInterval):
            return 0.0 if step - last < policy.interval else math.inf
        assert isinstance(policy, GrowingWindow)
        window = math.floor(policy.window + policy.growth * self.windows)
        return math.inf if (step - last) % window == 0 else 0.0

    def _expected(self, step: int) -> Tensor:
        """TaylorSeer of order 1 on the front residual."""
        fronts, computed = self.run.fronts, self.computed
        last = fronts[computed[-1]]
        if not isinstance(self.config.forecaster, TaylorSeer) or len(computed) < 2:
            return last
        slope = (last - fronts[computed[-2]]) / (computed[-1] - computed[-2])
        return last + slope * (step - computed[-1])


def relative(value: Tensor, before: Tensor) -> float:
    return size(value - before) / size(before)


def run_of(model: torch.nn.Module, samples: Sequence[Tensor], times: Sequence[Tensor], fn: int) -> Run:
    """What there is to see of a `ToyDiT`, given these."""
    fronts, norms, outputs = [], [], []
    with torch.no_grad():
        for sample, time in zip(samples, times, strict=True):
            entry = hidden = model.embed(sample)  # type: ignore[operator]
            temb = torch.sin(time).reshape(-1, 1, 1)
            for block in model.blocks[:fn]:  # type: ignore[index]
                hidden = block(hidden, temb)
            fronts.append(hidden - entry)
            norms.append(entry)
            outputs.append(model(sample, time))
    return Run(fronts, samples, norms, outputs)
