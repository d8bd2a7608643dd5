"""The documented semantics, written a second time: plain Python numbers, a loop over blocks, no graph."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fxcache import CacheConfig, TaylorSeer
from tests.toy import ToyDiT


@dataclass
class ReferenceLoop:
    """Runs a `ToyDiT` with a cache, one trajectory."""

    model: ToyDiT
    config: CacheConfig
    step: int = 0
    previous: Tensor | None = None
    ladder: list[Tensor] = field(default_factory=list)
    last_computed: int = 0
    hits: list[bool] = field(default_factory=list)
    diffs: dict[int, float] = field(default_factory=dict)

    def __call__(self, hidden: Tensor, timestep: Tensor) -> Tensor:
        config, blocks = self.config, self.model.blocks
        end = len(blocks) - config.bn_compute_blocks
        x = self.model.embed(hidden)
        temb = torch.sin(timestep.to(x.dtype)).reshape(-1, 1, 1)
        entry = x
        for block in blocks[: config.fn_compute_blocks]:
            x = block(x, temb)
        residual = x - entry
        if self._decide(residual):
            self.hits.append(True)
            x = x + self._forecast()
        else:
            self.hits.append(False)
            before = x
            for block in blocks[config.fn_compute_blocks : end]:
                x = block(x, temb)
            self._remember(x - before, residual)
        for block in blocks[end:]:
            x = block(x, temb)
        self.step += 1
        return self.model.head(x)

    def _decide(self, residual: Tensor) -> bool:
        c, s = self.config, self.step
        mask = c.steps_mask
        in_mask = mask is not None and s < len(mask)
        if in_mask and mask[s] == 1:
            return False
        if in_mask and c.steps_mask_policy == "static":
            return self.previous is not None
        warmup = c.max_warmup_steps
        if mask is not None:
            leading = mask.index(0) if 0 in mask else len(mask)
            warmup = min(warmup, leading)
        if s < warmup and s % c.warmup_interval == 0:
            return False
        if self.previous is None:
            return False
        if c.max_cached_steps is not None and sum(self.hits) >= c.max_cached_steps:
            return False
        run = 0
        for hit in reversed(self.hits):
            if not hit:
                break
            run += 1
        if c.max_continuous_cached_steps is not None and run >= c.max_continuous_cached_steps:
            return False
        limit = c.max_accumulated_residual_diff
        if limit is not None and sum(d for d in self.diffs.values() if math.isfinite(d)) >= limit:
            return False
        change = (residual - self.previous).abs().mean(dtype=torch.float32)
        diff = (change / self.previous.abs().mean(dtype=torch.float32)).item()
        self.diffs[s] = diff
        return diff < c.residual_diff_threshold

    def _remember(self, value: Tensor, residual: Tensor) -> None:
        order = self.config.forecaster.order if isinstance(self.config.forecaster, TaylorSeer) else 0
        ladder = [value]
        for i in range(order):
            if i >= len(self.ladder):
                break
            ladder.append((ladder[i] - self.ladder[i]) / (self.step - self.last_computed))
        self.ladder, self.previous, self.last_computed = ladder, residual, self.step

    def _forecast(self) -> Tensor:
        elapsed = self.step - self.last_computed
        return sum(d * (elapsed**i / math.factorial(i)) for i, d in enumerate(self.ladder))  # type: ignore[return-value]
