"""Start a worker on several ranks, once for all tests that look at what it found."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PATIENCE = 900  # seconds; a hang ends sooner, by the timeout of the workers' process group


@dataclass(frozen=True)
class Found:
    """What a worker's ranks wrote to `folder`."""

    folder: Path
    ranks: int

    def of(self, scenario: str) -> list[Any]:
        """What each rank found in a scenario; the test fails where one found nothing, or an error."""
        found: list[Any] = []
        for rank in range(self.ranks):
            file = self.folder / f"{rank}.json"
            result = json.loads(file.read_text()).get(scenario) if file.exists() else None
            if result is None or (isinstance(result, dict) and result.keys() == {"error"}):
                said = (self.folder / "log").read_text()[-4000:] if result is None else result["error"]
                pytest.fail(f"rank {rank} did not finish '{scenario}':\n{said}")
            found.append(result)
        return found

    def same_of(self, scenario: str) -> Any:
        """What all ranks found alike."""
        first, *others = self.of(scenario)
        assert all(other == first for other in others), (first, *others)
        return first


def launched(
    factory: pytest.TempPathFactory, module: str, ranks: int, names: list[str], timeout: float = PATIENCE
) -> Found:
    """Run the scenarios `names` of `tests.behaviour.processes.<module>`, unless another of xdist's did."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / "-".join(("processes", module, *names))[:200]
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            _run(folder, module, ranks, [str(folder), *names], timeout)
            (folder / "done").touch()
    return Found(folder, ranks)


def torchrun(module: str, ranks: int, words: list[str], folder: Path, timeout: float) -> str:
    """What `tests.behaviour.processes.<module>` said with these arguments; the test fails where it failed."""
    code = _run(folder, module, ranks, words, timeout)
    said = (folder / "log").read_text()
    if code != 0:
        pytest.fail(f"{module} on {ranks} ranks ended with {code}:\n{said[-4000:]}")
    return said


def _run(folder: Path, module: str, ranks: int, words: list[str], timeout: float) -> int:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["-m", f"tests.behaviour.processes.{module}", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # each rank would start workers for all cores
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun ends its ranks
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
    return process.wait()
