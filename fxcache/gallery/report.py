"""What was drawn and what it cost, for programs: `report.json`, and what --json prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..benchmark.machine import describe, stopwatch, versions
from ..runtime.stats import ContextStats
from .likeness import Likeness
from .run import Drawn
from .source import Source


def report(
    command: str, source: Source, plain: Drawn, drawn: Sequence[Drawn], files: Sequence[Path]
) -> dict[str, Any]:
    """Plain values that JSON can hold. Numbers that are not known are null, PSNRs of equal samples too."""
    return {
        "command": command,
        "versions": versions(),
        "device": describe(source.device),
        "clock": stopwatch(source.device)[1],
        "model": source.name,
        "denoisers": {name: type(model).__name__ for name, model in source.denoisers.items()},
        "kind": plain.media[0].kind,
        "prompts": list(source.prompts),
        "seed": source.seed,
        "steps": source.steps,
        "plain": {"seconds": plain.seconds, "samples": len(plain.media)},
        "settings": [_setting(one, plain) for one in drawn],
        "files": [str(file) for file in files],
    }


def _setting(one: Drawn, plain: Drawn) -> dict[str, Any]:
    config = one.candidate.config
    return {
        "setting": one.name,
        "config": None if config is None else config.to_dict(),
        "flops_speedup": one.speedup,
        "seconds": one.seconds,
        "first_seconds": one.first_seconds,
        "time_speedup": plain.seconds / one.seconds,
        **_likeness(one.likeness),
        "equal": all(found.psnr is None for found in one.each),
        "samples": [_likeness(found) for found in one.each],
        "contexts": {name: _context(context) for name, context in one.contexts.items()},
    }


def _likeness(found: Likeness) -> dict[str, Any]:
    return {"psnr": found.psnr, "ssim": found.ssim}


def _context(context: ContextStats) -> Mapping[str, Any]:
    diffs = context.residual_diffs
    return {
        "steps": context.steps,
        "cached_steps": list(context.cached_steps),
        "residual_diffs": {str(s): d for s, d in diffs.items() if math.isfinite(d)},
        "follows": context.follows,
        "flops_done": context.flops_done,
        "flops_saved": context.flops_saved,
        "state_bytes": context.state_bytes,
    }
