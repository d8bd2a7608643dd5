"""ImageReward, in a process and an environment of its own.

The package pins old releases of timm and needs an old transformers, so it is never imported here:
`image_reward_worker.py` runs under another Python, with what `image_reward_requirements.txt` lists.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

from ..errors import ImageRewardError, MissingPathError

HERE = Path(__file__).parent
WORKER = HERE / "image_reward_worker.py"
REQUIREMENTS = HERE / "image_reward_requirements.txt"
CHECKPOINT, TEXT_CONFIG = "ImageReward.pt", "med_config.json"


Scorer = Callable[[Sequence[Path], Sequence[str]], list[float]]


@contextlib.contextmanager
def reward_scorer(model: Path, python: Path | None, device: str) -> Iterator[Scorer]:
    """Within the block, the other process runs with its model loaded.

    Args:
        model: folder with `ImageReward.pt` and `med_config.json`.
        python: interpreter of the environment that has image-reward; None tries this one.

    Yields:
        What scores pictures against the texts that they should show.

    Raises `MissingPathError`, `ImageRewardError`.
    """
    for name in (CHECKPOINT, TEXT_CONFIG):
        if not (model / name).is_file():
            raise MissingPathError("--image-reward", model, f"no {name} there; download THUDM/ImageReward")
    if python is not None and not python.is_file():
        raise MissingPathError("--image-reward-python", python, f"no such interpreter; {_setup()}")
    command = [str(python or sys.executable), str(WORKER)]
    job = {
        "checkpoint": str((model / CHECKPOINT).resolve()),
        "text_config": str((model / TEXT_CONFIG).resolve()),
        "device": device,
    }
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=complaints, text=True) as process,
    ):

        def score(paths: Sequence[Path], texts: Sequence[str]) -> list[float]:
            pairs = [[text, str(path.resolve())] for text, path in zip(texts, paths, strict=True)]
            found: list[float] = _ask(process, pairs, complaints)
            return found

        _ask(process, job, complaints)
        yield score


def _ask(process: subprocess.Popen[str], question: Any, complaints: IO[str]) -> Any:
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # where it has ended, it said why
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        process.wait()
        complaints.seek(0)
        lines = [line.strip() for line in complaints if line.strip()] or ["no message"]
        raise ImageRewardError(f"{lines[-1]} (under {cast(list[str], process.args)[0]}); {_setup()}")
    return json.loads(answer)


def _setup() -> str:
    return (
        f"make one with: python -m venv ir && ir/bin/pip install -r {REQUIREMENTS}, "
        "then --image-reward-python ir/bin/python"
    )
