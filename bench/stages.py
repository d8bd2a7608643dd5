"""A model in its makers' pipeline, for contenders that change either."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diffusers import CacheMixin, DiffusionPipeline
from torch import Tensor

from bench import emoji_pixart
from bench.plans import Subject, embedded_subject, emoji_subject
from fxcache import embedded


@dataclass(frozen=True)
class Stage:
    """Where contenders draw.

    subject: the same model, to be calibrated on. title: model and sampler, in words.
    build: a pipeline with weights of its own.
    draw: `draw(pipe, seeds, steps)`, images [N,C,H,W] in [-1,1], one a seed; the model is called once a step.
    """

    subject: Subject
    title: str
    build: Callable[[], DiffusionPipeline]
    draw: Callable[[DiffusionPipeline, Sequence[int], int], Tensor]

    def fresh(self) -> DiffusionPipeline:
        """A pipeline with a class of its own, too: some peers patch the pipeline's class."""
        pipe = self.build()
        pipe.__class__ = type(type(pipe).__name__, (type(pipe),), {})  # some know it by its name
        return pipe


def embedded_stage() -> Stage:
    """The embedded FLUX."""

    def draw(pipe: DiffusionPipeline, seeds: Sequence[int], steps: int) -> Tensor:
        labels = [seed % len(embedded.CLASS_NAMES) for seed in seeds]
        return embedded.sample(pipe, labels, seeds=seeds, num_inference_steps=steps)

    return Stage(embedded_subject(), "Embedded FLUX, Euler", embedded.load_pipeline, draw)


def emoji_stage() -> Stage:
    """The emoji PixArt. Its pipeline names no context, as diffusers' caches need it, so it is named here."""

    def draw(pipe: DiffusionPipeline, seeds: Sequence[int], steps: int) -> Tensor:
        classes = [seed % len(emoji_pixart.CLASS_NAMES) for seed in seeds]
        model = pipe.transformer
        cached = isinstance(model, CacheMixin)
        with model.cache_context("cond") if cached else contextlib.nullcontext():
            return emoji_pixart.draw(pipe, seeds, classes, steps=steps) * 2 - 1

    def build() -> DiffusionPipeline:
        return emoji_pixart.load_pipeline(emoji_pixart.load())

    return Stage(emoji_subject(), "Emoji PixArt, DPM++ 2M", build, draw)


STAGES = {"embedded": embedded_stage, "emoji_pixart": emoji_stage}
