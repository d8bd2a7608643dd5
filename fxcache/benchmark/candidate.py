"""A setting made ready to draw, and one timed drawing with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image
from torch import nn

from ..api.transform import transform
from ..devices import synchronize
from ..ir.settings import same_graph
from ..runtime.cached_transformer import CachedTransformer
from .machine import stopwatch
from .other_load import watch_others
from .plain_cost import PlainCost
from .prompts import Prompt
from .records import ContextRecord, Record
from .subject import Subject
from .sweep import Setting


@dataclass(frozen=True)
class Candidate:
    """A setting's models, which stand in for the subject's. Settings of one graph share them."""

    setting: Setting
    steps: int
    models: dict[str, nn.Module]
    plain_flops: int | None

    @property
    def cached(self) -> dict[str, CachedTransformer]:
        return {n: m for n, m in self.models.items() if isinstance(m, CachedTransformer)}

    def configure(self) -> None:
        """Let its models, which several settings may have, cache by this one."""
        for model in self.cached.values():
            model.configure(self.setting.config)
            model.reset()


def prepare(
    subject: Subject,
    setting: Setting,
    steps: int,
    warm_up: Sequence[Prompt],
    cost: PlainCost,
    others: Iterable[Candidate] = (),
) -> Candidate:
    """Transform the subject's models for a setting and draw once, untimed.

    The drawing captures, allocates, and for a plain model counts its calls. Where one of `others` has the
    graph of this setting, that is taken, and nothing is drawn.
    Raises what `transform` and the captured call raise.
    """
    if setting.plain:
        models = dict(subject.models)
        subject.use(models)
        with cost.counting(models):
            subject.draw(warm_up, steps, setting.solver)
        return Candidate(setting, steps, models, cost.flops())
    config = setting.config.for_steps(steps)
    for other in others:
        if other.cached and same_graph(other.setting.config, config):
            candidate = Candidate(setting, steps, other.models, None)
            candidate.configure()
            return candidate
    models = {name: transform(model, config) for name, model in subject.models.items()}
    subject.use(models)
    subject.draw(warm_up, steps)
    return Candidate(setting, steps, models, None)


def draw(
    subject: Subject, candidate: Candidate, prompts: Sequence[Prompt]
) -> tuple[list[Image.Image], list[Record]]:
    """Draw a batch once, timed: its pictures and their records."""
    candidate.configure()
    subject.use(candidate.models)
    clock, _ = stopwatch(subject.device)
    synchronize(subject.device)
    others = watch_others(subject.device)
    begin = clock()
    images = subject.draw(prompts, candidate.steps, candidate.setting.solver)
    synchronize(subject.device)
    seconds = clock() - begin
    return images, _records(candidate, prompts, seconds, others())


def _records(
    candidate: Candidate, prompts: Sequence[Prompt], seconds: float, others: float | None
) -> list[Record]:
    size = len(prompts)
    done, saved = _flops(candidate)
    contexts = _contexts(candidate)
    return [
        Record(
            setting=candidate.setting.name,
            index=prompt.index,
            text=prompt.text,
            seed=prompt.seed,
            batch=size,
            steps=candidate.steps,
            seconds=seconds / size,
            flops_done=None if done is None else done / size,
            flops_saved=None if saved is None else saved / size,
            contexts=contexts,
            others=others,
        )
        for prompt in prompts
    ]


def _flops(candidate: Candidate) -> tuple[int | None, int | None]:
    if candidate.setting.plain:
        return candidate.plain_flops, None if candidate.plain_flops is None else 0
    done = saved = 0
    for model in candidate.cached.values():
        for context in model.stats().contexts.values():
            if context.flops_done is None or context.flops_saved is None:
                return None, None
            done, saved = done + context.flops_done, saved + context.flops_saved
    return done, saved


def _contexts(candidate: Candidate) -> dict[str, ContextRecord]:
    several = len(candidate.cached) > 1
    return {
        f"{part}.{name}" if several else name: ContextRecord(c.steps, c.cached_steps, dict(c.residual_diffs))
        for part, model in candidate.cached.items()
        for name, c in model.stats().contexts.items()
    }
