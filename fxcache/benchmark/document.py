"""The DrawBench document re-derived: from a row's TFLOPs to the steps that it must have cached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml

from ..api.explain import explain
from ..config import CacheConfig
from ..notation import NONE

DOCUMENT = Path(__file__).parent / "document.yaml"
IMAGE_TOKENS, TEXT_TOKENS = 4096, 512  # 1024 x 1024 pixels, and the length of a T5 prompt
TERA = 1e12


@dataclass(frozen=True)
class StepCost:
    """TFLOPs of a step of FLUX.1-dev: computed, and cached with Fn front blocks."""

    computed: float
    cached: float


@dataclass(frozen=True)
class DerivedRow:
    """A row of the document. implied: mean cached steps that its TFLOPs mean. limit: what W, M, MC allow."""

    name: str
    tflops: float
    cost: StepCost
    implied: float
    limit: int

    @property
    def possible(self) -> bool:
        return 0 <= self.implied <= self.limit


@dataclass(frozen=True)
class Derivation:
    """The document beside what is counted here: the baseline's TFLOPs, and every row."""

    steps: int
    reported: float
    counted: float
    rows: tuple[DerivedRow, ...]


def read_document() -> Mapping[str, Any]:
    """`steps`, and `rows`: name → clip_score, image_reward, latency, tflops."""
    found: Mapping[str, Any] = yaml.safe_load(DOCUMENT.read_text())
    return found


def derive() -> Derivation:
    """Count FLUX.1-dev on the meta device and solve every row for its cached steps.

    A row's TFLOPs are the baseline's less (computed - cached) for each cached step. What the document
    counts beyond the transformer's products (0.2%) is in every row alike and cancels.
    """
    document = read_document()
    steps, rows = document["steps"], document["rows"]
    reported = rows[NONE]["tflops"]
    derived = [_derive(name, row["tflops"], reported, steps) for name, row in rows.items() if name != NONE]
    return Derivation(steps, reported, derived[0].cost.computed * steps, tuple(derived))


def _derive(name: str, tflops: float, reported: float, steps: int) -> DerivedRow:
    config = CacheConfig.from_string(name)
    cost = count_flux(config.fn_compute_blocks)
    implied = (reported - tflops) / (cost.computed - cost.cached)
    return DerivedRow(name, tflops, cost, implied, most_hits(config, steps))


def most_hits(config: CacheConfig, steps: int) -> int:
    """The most hits that W, M and MC allow in a trajectory, if every checked diff were small enough."""
    hits = in_a_row = 0
    for step in range(steps):
        warming = step < max(config.max_warmup_steps, 1)  # the first step has nothing to replay
        tired = (
            config.max_continuous_cached_steps is not None and in_a_row >= config.max_continuous_cached_steps
        )
        spent = config.max_cached_steps is not None and hits >= config.max_cached_steps
        hit = not (warming or tired or spent)
        hits, in_a_row = hits + hit, in_a_row + 1 if hit else 0
    return hits


def flux_dev(**changes: int) -> tuple[Any, dict[str, torch.Tensor]]:
    """FLUX.1-dev without its weights, and a call at the document's sizes, on torch's default device.

    changes: of the model's config, as `num_layers=1`.
    """
    from diffusers.models import FluxTransformer2DModel

    model = FluxTransformer2DModel(guidance_embeds=True, **changes).eval()  # the defaults are FLUX.1-dev's
    return model, {
        "hidden_states": torch.empty(1, IMAGE_TOKENS, 64),
        "encoder_hidden_states": torch.empty(1, TEXT_TOKENS, 4096),
        "pooled_projections": torch.empty(1, 768),
        "timestep": torch.empty(1),
        "img_ids": torch.empty(IMAGE_TOKENS, 3),
        "txt_ids": torch.empty(TEXT_TOKENS, 3),
        "guidance": torch.empty(1, dtype=torch.float32),  # in the pipeline, too
    }


@cache
def count_flux(fn: int) -> StepCost:
    """Count FLUX.1-dev at the document's sizes, from its graph on the meta device."""
    with torch.device("meta"):
        model, inputs = flux_dev()
    found = explain(model, CacheConfig(fn_compute_blocks=fn), inputs)
    assert found.flops_computed is not None and found.flops_cached is not None
    return StepCost(found.flops_computed / TERA, found.flops_cached / TERA)


def table(derivation: Derivation) -> str:
    """The derivation in Markdown."""
    off = derivation.counted / derivation.reported - 1
    lines = [
        f"Uncached, {derivation.steps} steps: {derivation.reported:.2f} TFLOPs in the document, "
        f"{derivation.counted:.2f} counted from the graph ({off:+.2%}).",
        "",
        "| Config | TFLOPs | a cached step | implied cached steps | most that W, M, MC allow | possible |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in derivation.rows:
        cells = (
            row.name,
            f"{row.tflops:.2f}",
            f"{row.cost.cached:.2f}",
            f"{row.implied:.1f}",
            str(row.limit),
            "yes" if row.possible else "NO",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
