"""From the options of `fxcache bench run` to a run."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ..errors import FxcacheError
from .embedded_subject import EmbeddedSubject
from .errors import BenchmarkError, PipelineError
from .folder import RunFolder
from .machine import command, describe, stopwatch, versions
from .pipeline_subject import PipelineSubject
from .progress import ProgressWatcher, say
from .prompts import Prompt, expand, read_prompts
from .runner import Runner
from .sharing import Share
from .subject import EMBEDDED, Subject
from .sweep import Sweep, load_sweep
from .teams import split, teams


@dataclass(frozen=True)
class RunOptions:
    """The options of `fxcache bench run`, as typed."""

    sweep: str
    model: str
    out: Path
    steps: int = 50
    prompts: Path | None = None
    seeds: int = 1
    first_seed: int = 0
    batch: int | None = None
    resume: bool = False
    device: str | None = None
    dtype: str | None = None
    ulysses: int = 1
    arguments: dict[str, Any] = field(default_factory=dict)

    def command(self) -> str:
        """What to type to make this run anew."""
        options: list[tuple[str, object]] = [
            ("--sweep", self.sweep),
            ("--model", self.model),
            ("--prompts", self.prompts),
            ("--seeds", self.seeds),
            ("--first-seed", self.first_seed),
            ("--steps", self.steps),
            ("--batch", self.batch),
            ("--device", self.device),
            ("--dtype", self.dtype),
            ("--ulysses", self.ulysses if self.ulysses > 1 else None),
            *(("--arg", f"{n}={json.dumps(v)}") for n, v in self.arguments.items()),
            ("--out", self.out),
        ]
        return command("bench", "run", options=options)


def start(options: RunOptions) -> None:
    """Run. Raises the benchmark's errors before anything is drawn, where that can be known."""
    with Share.of_environment(options.ulysses).together() as share, teams(share, options.device):
        _start(options, share)


def _start(options: RunOptions, share: Share) -> None:
    console = Console()
    _at_least_one(options)
    sweep = load_sweep(options.sweep)
    subject = load_subject(options.model, share.device(options.device), options.dtype, options.arguments)
    texts = read_prompts(options.prompts) if options.prompts else tuple(subject.texts)
    subject.check(texts)
    split(subject.models, share, options.model)
    prompts = expand(texts, options.seeds, options.first_seed)
    size = options.batch or subject.batch
    folder = RunFolder(options.out)
    _begin(
        folder, share, _plan(options, sweep, prompts, size), _about(options, subject, share), options.resume
    )
    with ProgressWatcher(console, quiet=share.process > 0) as watcher:
        Runner(subject, sweep, prompts, options.steps, size, folder, share, watcher).run()
    if share.process == 0:
        say(console, f"wrote {options.out}; made by: {options.command()}")
        say(console, f"next: fxcache bench metrics --run {options.out}")


def _at_least_one(options: RunOptions) -> None:
    for name in ("steps", "seeds", "batch"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise BenchmarkError(f"--{name} {value}: it must be at least 1")


def _begin(
    folder: RunFolder, share: Share, plan: dict[str, Any], about: dict[str, Any], resume: bool
) -> None:
    """The first process writes the plan; the others wait for its word before they touch the folder."""
    error: FxcacheError | None = None
    if share.process == 0:
        try:
            folder.begin(plan, about, resume)
        except FxcacheError as refusal:
            error = refusal
    refused = share.exchange(error is not None)[0]
    if error is not None:
        raise error
    if refused:
        raise BenchmarkError("the first process refused to begin; see its message")


def _plan(options: RunOptions, sweep: Sweep, prompts: tuple[Prompt, ...], size: int) -> dict[str, Any]:
    """What must be the same when the run is resumed."""
    return {
        "model": options.model,
        "sweep": sweep.name,
        "settings": [{"name": s.name, "config": s.config.to_dict()} for s in sweep.settings],
        "equal_flops": sweep.equal_flops,
        "solvers": list(sweep.solvers),
        "steps": options.steps,
        "batch": size,
        "dtype": options.dtype,
        "arguments": options.arguments,
        "prompts": [vars(p) for p in prompts],
    }


def _about(options: RunOptions, subject: Subject, share: Share) -> dict[str, Any]:
    several = f", {share.processes} processes" if share.processes > 1 else ""
    if share.team > 1:
        several += f", {share.team} to a picture (FLOPs are those of one)"
    models = [
        f"{type(m).__name__}, {sum(p.numel() for p in m.parameters()) / 1e6:,.2f}M parameters, "
        f"{next(m.parameters()).dtype}".replace("torch.", "")
        for m in subject.models.values()
    ]
    return {
        "command": options.command(),
        "versions": versions(),
        "device": describe(subject.device) + several,
        "clock": stopwatch(subject.device)[1],
        "models": models,
        "cuda": torch.version.cuda if subject.device.type == "cuda" else None,
    }


def _made_by(module: str, function: str) -> Callable[..., Subject]:
    here = str(Path.cwd())
    if here not in sys.path:  # a command does not look where it is called
        sys.path.append(here)
    try:
        made: Callable[..., Subject] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise PipelineError(f"{module}:{function}", f"cannot be imported: {error}") from error
    return made


def load_subject(
    model: str, device: torch.device, dtype: str | None, arguments: Mapping[str, Any]
) -> Subject:
    """The embedded model, the pipeline in a folder, or what a function gives.

    Args:
        model: "embedded", the path of a diffusers pipeline folder, or `package.module:function`, called with
            the device, dtype and arguments, which gives a `Subject`.
        dtype: a torch dtype's name; None for what the weights are stored in (float32 if embedded).
        arguments: further arguments of every pipeline call, such as `guidance_scale`.

    Raises `MissingPathError`, `PipelineError`.
    """
    if model == EMBEDDED:
        return EmbeddedSubject(device, dtype, arguments)
    module, _, function = model.partition(":")
    if function.isidentifier() and not Path(model).exists():
        return _made_by(module, function)(device, dtype, arguments)
    return PipelineSubject(Path(model), device, dtype, arguments)
