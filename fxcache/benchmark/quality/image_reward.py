"""ImageReward, in a process and an environment of its own.

The package pins old releases of timm and needs an old transformers, so it is never imported here:
`image_reward_worker.py` runs under another Python, with what `image_reward_requirements.txt` lists.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import ImageRewardError, MissingPathError

HERE = Path(__file__).parent
WORKER = HERE / "image_reward_worker.py"
REQUIREMENTS = HERE / "image_reward_requirements.txt"
CHECKPOINT, TEXT_CONFIG = "ImageReward.pt", "med_config.json"


def image_reward(
    paths: Sequence[Path], texts: Sequence[str], model: Path, python: Path | None, device: str
) -> list[float]:
    """Score pictures against their prompts.

    Args:
        paths, texts: pictures and what they should show.
        model: folder with `ImageReward.pt` and `med_config.json`.
        python: interpreter of the environment that has image-reward; None tries this one.

    Raises `MissingPathError`, `ImageRewardError`.
    """
    for name in (CHECKPOINT, TEXT_CONFIG):
        if not (model / name).is_file():
            raise MissingPathError("--image-reward", model, f"no {name} there; download THUDM/ImageReward")
    if python is not None and not python.is_file():
        raise MissingPathError("--image-reward-python", python, f"no such interpreter; {_setup()}")
    job = {
        "checkpoint": str((model / CHECKPOINT).resolve()),
        "text_config": str((model / TEXT_CONFIG).resolve()),
        "device": device,
        "pairs": [[text, str(path.resolve())] for text, path in zip(texts, paths, strict=True)],
    }
    command = [str(python or sys.executable), str(WORKER)]
    ran = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True)
    if ran.returncode:
        lines = [line for line in ran.stderr.splitlines() if line.strip()] or ["no message"]
        raise ImageRewardError(f"{lines[-1].strip()} (under {command[0]}); {_setup()}")
    scores: list[float] = json.loads(ran.stdout)
    return scores


def _setup() -> str:
    return (
        f"make one with: python -m venv ir && ir/bin/pip install -r {REQUIREMENTS}, "
        "then --image-reward-python ir/bin/python"
    )
