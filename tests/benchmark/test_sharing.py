"""A run shared by processes, one of which is killed: nothing is lost or doubled, and who waits is told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from fxcache.benchmark.errors import LostProcessError
from fxcache.benchmark.folder import RunFolder
from fxcache.benchmark.peers import Patience
from fxcache.benchmark.sharing import Share
from fxcache.cli import main
from tests.sweep import sweep

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds for any subprocess; a hang, not a measure
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TORCHRUN += ["--no-python", sys.executable, "-c", "from fxcache.cli import main; main()"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(**more: object) -> dict[str, str]:
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    ours = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(paths)}
    return {**os.environ, **ours, **{name: str(value) for name, value in more.items()}}


@contextmanager
def pair(command: list[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes 0 and 1 with nobody who watches over them; none outlives the block."""
    shared = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            text=True,
            env=environment(RANK=rank, LOCAL_RANK=rank, **shared),
            **pipes,  # type: ignore[call-overload]
        )
        for rank in (0, 1)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def told(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=PATIENCE)[0]


ENDS = (
    ("dies", 1, "process 1 (of 0 to 1) died: no sign of life for 4 seconds"),
    ("dies", 0, "process 0 (of 0 to 1) is gone, or torchrun is"),
    ("hangs", 1, "process 1 (of 0 to 1) died: no sign of life for 4 seconds"),
    ("fails", 1, "process 1 (of 0 to 1) stopped: ValueError: no space left;"),
)


@pytest.mark.parametrize(
    ("what", "rank", "says"), sweep(ENDS, ENDS[:2], ids=lambda end: f"{end[0]}-{end[1]}")
)
def test_who_waits_for_a_dead_process_learns_its_name(what: str, rank: int, says: str) -> None:
    with pair([sys.executable, "-m", "tests.benchmark.sharing_rank", what, str(rank)]) as processes:
        waiting = processes[1 - rank]
        output = told(waiting)
    assert f"LostProcessError: {says}" in output
    assert waiting.returncode == 1


def test_a_slow_process_is_not_taken_for_dead() -> None:
    with pair([sys.executable, "-m", "tests.benchmark.sharing_rank", "works", "1"]) as processes:
        assert [told(p).strip() for p in processes] == ["all there", "all there"]


def test_a_process_that_never_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", port)):
        monkeypatch.setenv(name, str(value))
    for rank, says in ((0, "process 1 .* did not begin within 1 s"), (1, "process 0 .* cannot be reached")):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        alone = Share.of_environment().together(Patience(start=1.0))
        with pytest.raises(LostProcessError, match=says) as caught, alone:
            pass
        assert caught.value.rank == 1 - rank


@dataclass(frozen=True)
class Size:
    """Of a run: `settings` on ten classes of clothes, `seeds` times."""

    settings: tuple[str, ...]
    seeds: int
    steps: int
    batch: int

    @property
    def records(self) -> int:
        return len(self.settings) * 10 * self.seeds

    def words(self, folder: Path, out: str) -> list[str]:
        file = folder / "sweep.yaml"
        file.write_text(f"settings: [{', '.join(self.settings)}]\nequal_flops: false\n")
        options = {"sweep": file, "steps": self.steps, "seeds": self.seeds, "batch": self.batch}
        named = [word for n, v in options.items() for word in (f"--{n}", str(v))]
        return ["bench", "run", *named, "--device", "cpu", "--out", str(folder / out)]


SMALL = Size(("C0_Q0_NONE", "F1B0_W2M0MC2_T0O1_R0.6"), seeds=1, steps=4, batch=1)
LARGE = Size(
    ("C0_Q0_NONE", "F1B0_W1M0MC1_T0O1_R0.6", "F1B0_W1M0MC1_T0O1_R0.1"), seeds=12, steps=3, batch=10
)  # 360 records


def finished(command: list[str]) -> None:
    ran = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ran.returncode == 0, ran.stdout[-1000:] + ran.stderr[-3000:]


def lines(folder: RunFolder) -> list[str]:
    return [x for f in folder.record_folder.glob("*.jsonl") for x in f.read_text().splitlines()]


def rank_of(parent: int, rank: int) -> int:
    """The process with this RANK among torchrun's."""
    (children,) = (f.read_text().split() for f in Path(f"/proc/{parent}/task/{parent}").glob("children"))
    ranked = {child: Path(f"/proc/{child}/environ").read_bytes().split(b"\0") for child in children}
    (found,) = (int(c) for c, variables in ranked.items() if b"RANK=%d" % rank in variables)
    return found


def kill_amid(command: list[str], folder: RunFolder, records: int) -> None:
    """SIGKILL process 1 once it has drawn something, and the run has so many records."""
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as torchrun:
        try:
            deadline = time.monotonic() + PATIENCE
            own = folder.record_folder / "1.jsonl"
            while not own.exists() or not own.stat().st_size or len(lines(folder)) < records:
                assert torchrun.poll() is None and time.monotonic() < deadline, (
                    "it ended before it was killed"
                )
                time.sleep(0.01)
            os.kill(rank_of(torchrun.pid, 1), signal.SIGKILL)
            assert torchrun.wait(PATIENCE) == 1
        finally:
            torchrun.terminate()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds a process of torchrun's in /proc")
@pytest.mark.full
@pytest.mark.parametrize(("size", "at"), [(SMALL, 1), (LARGE, 60)])
def test_one_of_two_processes_is_killed_and_the_run_resumed(size: Size, at: int, tmp_path: Path) -> None:
    whole, folder = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "shared")
    alone = CliRunner().invoke(main, size.words(tmp_path, "whole"))
    assert alone.exit_code == 0, alone.output
    shared = [*TORCHRUN, *size.words(tmp_path, "shared")]
    kill_amid(shared, folder, at)
    before = lines(folder)
    assert 0 < len(before) < size.records
    finished([*shared, "--resume"])

    after = lines(folder)
    assert len(after) == len(folder.records()) == size.records  # none is lost, none is there twice
    assert set(before) <= set(after)  # what was there was not drawn again
    expected = whole.records()
    assert folder.records().keys() == expected.keys()
    for key, record in folder.records().items():
        assert record.contexts == expected[key].contexts and record.flops_done == expected[key].flops_done
        assert folder.picture(*key).read_bytes() == whole.picture(*key).read_bytes()
