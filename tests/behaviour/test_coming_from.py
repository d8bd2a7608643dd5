"""The settings of other caches in fxcache/COMING_FROM.md cache the same steps as ours beside them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from torch import Tensor

import fxcache
from bench.stages import embedded_stage
from fxcache import embedded

PAGE = Path(__file__).parents[2] / "fxcache" / "COMING_FROM.md"
STEPS = 28
RATIOS = [1.0, 1.02, 0.99, 0.97, 0.98, 0.96, 0.95, 0.97, 0.9, 0.95, 0.92, 0.9, 0.85, 0.9]
CONFIGS = (
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
ROW = re.compile(r"^\| `([^`]+)` \| `([^`]+)` \| (the same \w+) \|$", re.MULTILINE)


@dataclass(frozen=True)
class Row:
    maker: str
    theirs: str
    ours: str
    same: str


def rows() -> list[Row]:
    sections = PAGE.read_text().split("\n## ")[1:]
    return [Row(s.splitlines()[0], *found) for s in sections for found in ROW.findall(s)]


def of(*makers: str) -> list[Any]:
    return [pytest.param(row, id=row.theirs[:70]) for row in rows() if row.maker in makers]


@dataclass(frozen=True)
class Drawn:
    image: Tensor
    computed: list[int]


def draw(pipe: Any, computed: Callable[[], list[int]]) -> Drawn:
    image = embedded.sample(pipe, [3], seeds=[0], num_inference_steps=STEPS)
    return Drawn(image, computed())


def watched(pipe: Any) -> Callable[[], list[int]]:
    """The steps on which the attention of a block in the middle ran."""
    ran: list[int] = []
    attention = pipe.transformer.single_transformer_blocks[3].attn
    attention.to_q.register_forward_hook(lambda *_: ran.append(pipe.scheduler.step_index or 0))
    return lambda: ran


def names(**more: Any) -> dict[str, Any]:
    """What a reader has imported."""
    configs = {config.__name__: config for config in CONFIGS}
    ours = {name: getattr(fxcache, name) for name in fxcache.__all__}
    return {**configs, **ours, "fxcache": fxcache, "torch": torch, "ratios": RATIOS, **more}


@functools.cache
def draw_ours(setting: str) -> Drawn:
    pipe = embedded_stage().fresh()
    exec(setting, names(pipe=pipe))

    def computed() -> list[int]:
        (context,) = pipe.transformer.stats().contexts.values()
        return [step for step in range(STEPS) if step not in context.cached_steps]

    return draw(pipe, computed)


def draw_theirs(row: Row, **more: Any) -> Drawn:
    pipe = embedded_stage().fresh()
    computed = watched(pipe)
    exec(row.theirs, names(pipe=pipe, **more))
    return draw(pipe, computed)


def compare(row: Row, theirs: Drawn) -> None:
    ours = draw_ours(row.ours)
    assert ours.computed == theirs.computed
    assert 3 < len(ours.computed) < STEPS - 3, "a setting that tells nothing"
    alike = torch.allclose(ours.image, theirs.image, rtol=1e-3, atol=1e-3)
    assert alike == (row.same == "the same picture")


def test_the_page_has_a_row_for_each_maker() -> None:
    assert {row.maker for row in rows()} == {"cache-dit", "diffusers", "ParaAttention", "TeaCache"}
    cells = [line for line in PAGE.read_text().splitlines() if "the same " in line and line.startswith("|")]
    assert len(rows()) == len(cells)


@pytest.mark.parametrize("row", of("diffusers"))
def test_diffusers(row: Row) -> None:
    compare(row, draw_theirs(row))


@pytest.mark.parametrize("row", of("cache-dit"))
def test_cache_dit(row: Row) -> None:
    cache_dit = pytest.importorskip("cache_dit", reason="pip install 'fxcache[peers]' brings cache-dit")
    compare(row, draw_theirs(row, **vars(cache_dit), cache_dit=cache_dit))


@pytest.mark.parametrize("row", of("cache-dit", "ParaAttention"))
def test_what_they_do_as_a_loop(row: Row) -> None:
    """Their semantics in plain Python, so that a machine without these packages checks the page, too."""
    pipe = embedded_stage().fresh()
    computed = watched(pipe)
    pipe.transformer.forward = DBCacheLoop(pipe.transformer, options_of(row))
    compare(row, draw(pipe, computed))


@pytest.mark.parametrize("row", of("TeaCache"))
def test_teacache(row: Row) -> None:
    given: dict[str, Any] = {}
    exec(row.theirs, given)
    pipe = embedded_stage().fresh()
    computed = watched(pipe)
    pipe.transformer.forward = TeaCacheLoop(
        pipe.transformer, given["rel_l1_thresh"], given["num_steps"], given["coefficients"]
    )
    compare(row, draw(pipe, computed))


def options_of(row: Row) -> dict[str, Any]:
    """The options in their call, by name. ParaAttention's cache is one of a single block and no warmup."""
    found: dict[str, Any] = {"Fn_compute_blocks": 1, "Bn_compute_blocks": 0, "max_warmup_steps": 0}
    return found | {name: eval(value) for name, value in re.findall(r"(\w+)=([\d.]+)", row.theirs)}


class FluxLoop:
    """FLUX's forward in its parts: what stands before the blocks, the blocks, what stands behind them."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.step = -1

    def begin(self, **call: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """The image's and the text's tokens, and what every block is given besides."""
        self.step += 1
        model = self.model
        temb = model.time_text_embed(call["timestep"].to(torch.float32) * 1000, call["pooled_projections"])
        rotary = model.pos_embed(torch.cat((call["txt_ids"], call["img_ids"])))
        image, text = (
            model.x_embedder(call["hidden_states"]),
            model.context_embedder(call["encoder_hidden_states"]),
        )
        return image, text, {"temb": temb, "image_rotary_emb": rotary}

    @property
    def blocks(self) -> list[Any]:
        return [*self.model.transformer_blocks, *self.model.single_transformer_blocks]

    def run(
        self, blocks: list[Any], image: Tensor, text: Tensor, given: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        for block in blocks:
            text, image = block(hidden_states=image, encoder_hidden_states=text, **given)
        return image, text

    def end(self, image: Tensor, given: dict[str, Any]) -> tuple[Tensor]:
        return (self.model.proj_out(self.model.norm_out(image, given["temb"])),)


class DBCacheLoop(FluxLoop):
    """The first blocks run always; where what they add moved little, the rest is replayed, else it runs."""

    def __init__(self, model: Any, options: dict[str, Any]) -> None:
        super().__init__(model)
        self.options = options
        self.in_a_row = 0
        self.front: Tensor | None = None
        self.seen: list[tuple[int, Tensor, Tensor]] = []

    def __call__(self, **call: Any) -> tuple[Tensor]:
        image, text, given = self.begin(**call)
        first, last = self.options["Fn_compute_blocks"], self.options["Bn_compute_blocks"]
        blocks = self.blocks
        entry = image
        image, text = self.run(blocks[:first], image, text, given)
        if self.hits(image - entry):
            self.in_a_row += 1
            image, text = image + self.replayed(1), text + self.replayed(2)
        else:
            self.in_a_row, self.front = 0, image - entry
            before = image, text
            image, text = self.run(blocks[first : len(blocks) - last], image, text, given)
            self.seen.append((self.step, image - before[0], text - before[1]))
        image, text = self.run(blocks[len(blocks) - last :], image, text, given)
        return self.end(image, given)

    def hits(self, front: Tensor) -> bool:
        most = self.options.get("max_continuous_cached_steps", STEPS)
        if self.step < self.options["max_warmup_steps"] or self.front is None or self.in_a_row >= most:
            return False
        moved = ((front - self.front).abs().mean() / self.front.abs().mean()).item()
        return bool(moved < self.options["residual_diff_threshold"])

    def replayed(self, of: int) -> Tensor:
        """The last computed value, or with TaylorSeer of order 1 the line through the last two."""
        at, last = self.seen[-1][0], self.seen[-1][of]
        assert isinstance(last, Tensor)
        if "taylorseer_order" not in self.options or len(self.seen) < 2:
            return last
        slope = (last - self.seen[-2][of]) / (at - self.seen[-2][0])
        return last + slope * (self.step - at)


class TeaCacheLoop(FluxLoop):
    """Rescaled changes of the first modulated norm add up; below the threshold all blocks are replayed."""

    def __init__(self, model: Any, threshold: float, steps: int, coefficients: list[float]) -> None:
        super().__init__(model)
        self.threshold, self.steps, self.coefficients = threshold, steps, coefficients
        self.total = 0.0
        self.norm: Tensor | None = None
        self.residual = torch.zeros(())

    def __call__(self, **call: Any) -> tuple[Tensor]:
        image, text, given = self.begin(**call)
        norm = self.blocks[0].norm1(image, emb=given["temb"])[0]
        compute = self.decide(norm)
        self.norm = norm
        if not compute:
            return self.end(image + self.residual, given)
        after, _ = self.run(self.blocks, image, text, given)
        self.residual = after - image
        return self.end(after, given)

    def decide(self, norm: Tensor) -> bool:
        if self.norm is None or self.step == self.steps - 1:
            self.total = 0.0
            return True
        change = ((norm - self.norm).abs().mean() / self.norm.abs().mean()).item()
        self.total += sum(c * change**p for p, c in enumerate(reversed(self.coefficients)))
        if self.total < self.threshold:
            return False
        self.total = 0.0
        return True
