"""What `sample` and `compile` share: draw, compare, write, say."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch

from ..benchmark.errors import ProcessesError
from ..benchmark.sharing import Share
from ..benchmark.teams import split, teams
from ..config import as_config
from ..gallery.comparison import comparison, decibels
from ..gallery.decisions import decisions
from ..gallery.files import save, side_by_side
from ..gallery.report import report
from ..gallery.run import Candidate, Drawn, drawings, run
from ..gallery.source import Request, Source, load_source
from ..runtime.cached_transformer import CachedTransformer
from ..runtime.stats import amount, ranges
from .look import Bar, Silence, messages, print_json, quiet, say, table

Finish = Callable[[CachedTransformer], CachedTransformer]


@dataclass(frozen=True)
class Drawing:
    """What is asked for. settings: as typed. finish: what is done to each cached model, as to compile it.

    team: how many processes draw each sample together.
    """

    model: str
    settings: Sequence[str]
    request: Request
    out: Path
    command: str
    device: str | None = None
    dtype: str | None = None
    as_json: bool = False
    team: int = 1
    finish: Finish = field(default=lambda cached: cached)


def draw(asked: Drawing, package: Path | None = None) -> None:
    """Draw with every setting, write the pictures and the report, print the table.

    Raises:
        ProcessesError: there are more processes than draw a sample together, or fewer.
    """
    share = Share.of_environment(asked.team)
    if asked.team > 1 and share.world > 1:
        raise ProcessesError(asked.team, share.processes)
    with teams(share, asked.device):
        _draw(asked, package, share)


def _draw(asked: Drawing, package: Path | None, share: Share) -> None:
    device = torch.device(asked.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    device = share.device(asked.device) if share.team > 1 else device
    quiet()
    with messages().status("loading"):
        source = load_source(asked.model, asked.request, device, asked.dtype)
        split(source.denoisers, share, asked.model)
        if package is None:
            candidates = [_candidate(source, text, asked.finish) for text in asked.settings]
        else:
            candidates = [_packaged(source, package, asked.settings)]
    with Bar(drawings(len(candidates)) * source.total) if share.writes else Silence() as bar:
        plain, drawn = run(source, candidates, bar)
    if not share.writes:
        return
    files = _written(source, plain, drawn, asked.out)
    found = report(asked.command, source, plain, drawn, [*files, asked.out / "report.json"])
    (asked.out / "report.json").write_text(json.dumps(found, indent=1))
    if asked.as_json:
        print_json(found)
    else:
        _say(source, plain, drawn, files)


def _candidate(source: Source, text: str, finish: Finish) -> Candidate:
    from .. import transform

    config = as_config(text).for_steps(source.steps)
    models = {name: finish(transform(model, config)) for name, model in source.denoisers.items()}
    name = Path(text).name if text.endswith((".json", ".yaml", ".yml")) else text
    return Candidate(name, models, config)


def _packaged(source: Source, package: Path, settings: Sequence[str]) -> Candidate:
    from .. import load

    if len(source.denoisers) > 1:
        raise click.UsageError(f"a package is of one denoiser, and {source.name} has several")
    if len(settings) > 1:
        raise click.UsageError("a package has one setting at a time: give one --config, or none")
    loaded = load(package)
    if settings:
        config = as_config(settings[0]).for_steps(source.steps)
        if config.plans:
            loaded.use(config.plans)
        else:
            loaded.configure(config)
    models = dict.fromkeys(source.denoisers, loaded)
    return Candidate(f"{package.name} {loaded.cache_config}", models, loaded.cache_config)


def _written(source: Source, plain: Drawn, drawn: Sequence[Drawn], out: Path) -> list[Path]:
    title = f"{Path(source.name).name}, {source.steps} steps"
    files = comparison(title, source.prompts, plain, drawn, source.rate, out / "comparison.png")
    if plain.media[0].kind == "clip":
        files += [
            side_by_side(plain, drawn, i, out / ("comparison.webp" if i == 0 else f"comparison-{i}.webp"))
            for i in range(len(plain.media))
        ]
    files.append(decisions(f"{title}: what was decided", drawn, out / "decisions.png"))
    save([plain, *drawn], source.rate, out / "samples")
    return files


def _say(source: Source, plain: Drawn, drawn: Sequence[Drawn], files: Sequence[Path]) -> None:
    rows: list[tuple[str, ...]] = [("plain", "1.00x", f"{plain.seconds:.2f} s", "1.00x", "-", "-")]
    rows += [_row(one, plain) for one in drawn]
    costs = ("setting", "fewer FLOPs", "time", "faster", "PSNR", "SSIM")
    table(f"{Path(source.name).name}: {len(plain.media)} x {source.steps} steps", costs, rows)
    contexts = [
        (one.name if i == 0 else "", name, *_context(context))
        for one in drawn
        for i, (name, context) in enumerate(one.contexts.items())
    ]
    columns = ("setting", "context", "cached steps", "cached", "FLOPs done")
    table("Decisions", columns, contexts, left=3)
    for file in files:
        say(f"wrote {file}")
    say(f"wrote {files[0].parent / 'report.json'}, and every sample at its own size in samples/")


def _row(one: Drawn, plain: Drawn) -> tuple[str, ...]:
    found = one.likeness
    ssim = "-" if found.ssim is None else f"{found.ssim:.4f}"
    faster = f"{plain.seconds / one.seconds:.2f}x"
    return (one.name, f"{one.speedup:.2f}x", f"{one.seconds:.2f} s", faster, decibels(found), ssim)


def _context(context: Any) -> tuple[str, ...]:
    share = len(context.cached_steps) / max(context.steps, 1)
    return (
        ranges(context.cached_steps) or "none",
        f"{len(context.cached_steps)} ({share:.0%})",
        amount(context.flops_done),
    )
