"""From the options of `fxcache calibrate` to a plan, or a setting, and to a picture of what it does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from torch import nn

from ..api.transform import transform
from ..calibration.calibrate import calibrate
from ..calibration.frontier import Frontier
from ..calibration.results import MOST, pictures, psnr
from ..config import CacheConfig, as_config
from ..plans import Plan
from ..runtime.stats import speedup
from .errors import BenchmarkError
from .machine import command
from .prompts import Prompt, expand, read_prompts
from .sharing import Share
from .start import load_subject
from .subject import Subject

AMPLIFIED = 8  # differences are so many times what they are
FIRST_SEED = 100_000  # of calibration: the seeds of benchmarks begin at 0


@dataclass(frozen=True)
class CalibrationOptions:
    """The options of `fxcache calibrate`, as typed."""

    model: str
    out: Path
    steps: int
    speedups: tuple[float, ...] = ()
    psnr: float | None = None
    config: str | None = None
    prompts: Path | None = None
    runs: int | None = None
    first_seed: int = FIRST_SEED
    search: bool = True
    checkpoint: Path | None = None
    device: str | None = None
    dtype: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Calibrated:
    """What was made. files: plans, or a setting, by the file that each is in. drawn: the pictures, and the
    frontier if several."""

    files: Mapping[Path, Plan | CacheConfig]
    drawn: tuple[Path, ...]
    text: str


def run_calibration(options: CalibrationOptions) -> Calibrated:
    """Calibrate, save and draw. Raises `BenchmarkError`, `CalibrationError`, `PlanError`."""
    device = Share.of_environment().device(options.device)
    subject = load_subject(options.model, device, options.dtype, options.arguments)
    texts = read_prompts(options.prompts) if options.prompts else tuple(subject.texts)
    subject.check(texts)
    runs = options.runs or len(texts)
    prompts = expand(texts, -(-runs // len(texts)), options.first_seed)[:runs]
    if len(subject.models) != 1:
        need = "has several denoisers; use fxcache.calibrate(pipe, calls), which returns a plan for each"
        raise BenchmarkError(f"{options.model} {need}")
    ((name, model),) = subject.models.items()

    def run(used: nn.Module, i: int) -> list[Image.Image]:
        subject.use({name: used})
        return subject.draw([prompts[i]], options.steps)

    asked: dict[str, Any] = (
        {"psnr": options.psnr} if options.psnr is not None else {"speedup": options.speedups}
    )
    if len(options.speedups) == 1 and options.psnr is None:
        asked["speedup"] = options.speedups[0]
    if options.config is not None:
        asked["config"] = as_config(options.config).for_steps(options.steps)
    found = calibrate(
        model, run=run, runs=runs, search=options.search, checkpoint=options.checkpoint, **asked
    )
    files = _saved(found, options.out)
    drawn = [
        _draw(subject, name, model, used, prompts[-1], options.steps, file) for file, used in files.items()
    ]
    text = str(found)
    if isinstance(found, Frontier):
        drawn.append(found.plot(options.out.with_suffix(".frontier.png")))
    return Calibrated(files, tuple(drawn), text)


def _saved(found: Plan | Frontier | CacheConfig, out: Path) -> dict[Path, Plan | CacheConfig]:
    """Write one file, or one for each speedup: `plan-2.55x.json`. A setting is YAML."""
    if isinstance(found, CacheConfig):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(yaml.safe_dump(found.to_dict(), sort_keys=False))
        return {out: found}
    if isinstance(found, Plan):
        return {found.save(out): found}
    plans = [plan for plan in found.plans if isinstance(plan, Plan)]
    return {p.save(out.with_stem(f"{out.stem}-{p.speedup:.2f}x")): p for p in plans}


def _draw(
    subject: Subject,
    name: str,
    model: nn.Module,
    used: Plan | CacheConfig,
    prompt: Prompt,
    steps: int,
    file: Path,
) -> Path:
    """One run, of plans one that was held out: plain, cached, and the difference amplified."""
    import matplotlib.figure

    subject.use({name: model})
    (plain,) = subject.draw([prompt], steps)
    cached = transform(model, used)
    subject.use({name: cached})
    (drawn,) = subject.draw([prompt], steps)
    subject.use({name: model})
    (before,), (after,) = pictures([plain]), pictures([drawn])
    (decibels,) = psnr([before], [after])
    difference = ((after - before).abs() * AMPLIFIED).clamp(max=1)
    figure = matplotlib.figure.Figure(figsize=(9, 3.4), layout="constrained")
    found = f"{decibels:.1f} dB" if decibels < MOST else "equal"
    saved = used.speedup if isinstance(used, Plan) else speedup(cached.stats().contexts.values())
    done = f"{saved:.2f}x fewer FLOPs, {found}"
    shown = {"every step computed": before, done: after, f"difference x {AMPLIFIED}": difference}
    for axis, (title, image) in zip(figure.subplots(1, 3), shown.items(), strict=True):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(title, fontsize=11)
        axis.set_axis_off()
    figure.savefig(file.with_suffix(".png"), dpi=100)
    return file.with_suffix(".png")


def made_by(options: CalibrationOptions) -> str:
    """What to type to make the plan anew."""
    typed: list[tuple[str, object]] = [
        ("--model", options.model),
        ("--steps", options.steps),
        *(("--speedup", f"{s:g}") for s in options.speedups),
        ("--psnr", options.psnr),
        ("--config", options.config),
        ("--prompts", options.prompts),
        ("--runs", options.runs),
        ("--no-search", not options.search),
        ("--device", options.device),
        ("--dtype", options.dtype),
        *(("--arg", f"{n}={json.dumps(v)}") for n, v in options.arguments.items()),
        ("--out", options.out),
    ]
    return command("calibrate", options=typed)
