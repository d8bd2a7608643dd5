"""`fxcache bench run`: every setting on every prompt, resumable, shareable, one line per mistake."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from fxcache import CacheConfig
from fxcache.benchmark.document import most_hits, read_document
from fxcache.benchmark.embedded_subject import EmbeddedSubject
from fxcache.benchmark.equal_flops import equal_steps, mean_flops, plain_rows
from fxcache.benchmark.errors import PromptError, SweepError
from fxcache.benchmark.folder import RunFolder
from fxcache.benchmark.prompts import batches, expand, read_prompts
from fxcache.benchmark.records import Record, RecordFile, read_records
from fxcache.benchmark.runner import Runner
from fxcache.benchmark.sharing import Share
from fxcache.benchmark.sweep import load_sweep
from fxcache.cli import main
from tests.sweep import sweep

CACHED = "F1B0_W2M0MC2_T0O1_R0.6"
STEPS = 4
SWEEP = f"settings: [C0_Q0_NONE, {CACHED}]\nsolvers: [unipc]\n"


def bench(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, words)])


def options(folder: Path, *more: str) -> list[str | Path]:
    sweep = folder.parent / "small.yaml"
    sweep.write_text(SWEEP)
    return [
        "run",
        "--sweep",
        sweep,
        "--steps",
        str(STEPS),
        "--seeds",
        "2",
        "--batch",
        "5",
        "--out",
        folder,
        *more,
    ]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A whole run: the plain model, a cached one and its rivals on twenty pictures."""
    folder = tmp_path_factory.mktemp("bench") / "run"
    result = bench(*options(folder))
    assert result.exit_code == 0, result.output
    assert "made by: fxcache bench run --sweep" in result.output
    return RunFolder(folder)


def test_every_setting_draws_every_prompt(done: RunFolder) -> None:
    records = done.records()
    names = {name for name, _ in records}
    assert {"C0_Q0_NONE", CACHED} < names and len(names) == 4
    assert set(records) == {(name, i) for name in names for i in range(20)}
    lines = (done.record_folder / "0.jsonl").read_text().splitlines()
    assert len(lines) == len(records)  # the warm-up left no record
    assert [p.seed for p in done.prompts()] == list(range(20))


def test_records_say_what_was_cached_and_saved(done: RunFolder) -> None:
    records = done.records()
    for (name, index), record in records.items():
        whole = records["C0_Q0_NONE", index].flops_done
        assert record.seconds > 0 and record.batch == 5 and whole
        if name.startswith("C0_Q0_NONE"):
            assert record.contexts == {} and record.flops_saved == 0
            assert record.flops_done == pytest.approx(whole * record.steps / STEPS)
            continue
        (context,) = record.contexts.values()
        assert 0 < len(context.cached_steps) <= most_hits(CacheConfig.from_string(name), STEPS)
        assert all(context.residual_diffs[s] < 0.6 for s in context.cached_steps)
        assert record.flops_done and record.flops_saved
        assert record.flops_done + record.flops_saved == pytest.approx(whole)


def test_fewer_plain_steps_cost_what_the_settings_cost(done: RunFolder) -> None:
    flops = mean_flops(done.records().values())
    step = flops["C0_Q0_NONE"] / STEPS
    equal = equal_steps(flops, STEPS)
    assert set(equal) == {CACHED}
    for name, steps in equal.items():
        assert abs(flops[name] - steps * step) <= step / 2
        assert {f"C0_Q0_NONE@{steps}", f"C0_Q0_NONE@{steps}-unipc"} < set(flops)
    assert [s.steps for s in plain_rows(flops, STEPS)] == sorted(set(equal.values()), reverse=True)


def test_pictures_are_those_of_the_embedded_model(done: RunFolder) -> None:
    from fxcache import embedded
    from fxcache.benchmark.quality.pictures import read

    images = embedded.sample(embedded.load_pipeline(), [3, 4], seeds=[13, 14], num_inference_steps=STEPS)
    for image, index in zip(images, (13, 14), strict=True):
        levels = read(done.picture("C0_Q0_NONE", index))
        assert (levels - (image + 1) * 127.5).abs().max() <= 1


def test_a_run_is_not_overwritten_and_not_mixed(done: RunFolder) -> None:
    again = bench(*options(done.root))
    assert again.exit_code == 1 and "holds a run already: add --resume" in again.output
    other = bench(*options(done.root, "--resume", "--first-seed", "5"))
    assert other.exit_code == 1 and "begun with other prompts" in other.output
    assert other.output.count("\n") == 1


class Interrupting:
    """A watcher that stops the run after some drawings, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        self.left = after

    def begin(self, phase: str, batches: int, settings: int) -> None: ...

    def warmed_up(self, setting: str) -> None: ...

    def drawn(self, records: Sequence[Record]) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_an_interrupted_run_resumes_and_loses_nothing(done: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(done.root, folder.root, ignore=shutil.ignore_patterns("records", "images"))

    def runner(after: int) -> Runner:
        subject = EmbeddedSubject(torch.device("cpu"), None, {})
        sweep = load_sweep(str(done.root.parent / "small.yaml"))
        return Runner(subject, sweep, done.prompts()[:10], STEPS, 5, folder, Share(), Interrupting(after))

    with pytest.raises(KeyboardInterrupt):
        runner(3).run()
    path = folder.record_folder / "0.jsonl"
    before = path.read_text()
    assert len(folder.records()) == 15
    with path.open("a") as file:
        file.write('{"setting":"C0_Q0_NO')  # the line being written when the power went
    runner(-1).run()
    assert path.read_text().startswith(before)  # what was there is kept and not drawn again
    assert _told(folder.records()) == _told({k: r for k, r in done.records().items() if r.seed < 10})


def _told(records: dict[tuple[str, int], Record]) -> dict[tuple[str, int], tuple[object, ...]]:
    return {
        k: (r.seed, r.flops_done, {n: c.cached_steps for n, c in r.contexts.items()})
        for k, r in records.items()
    }


def test_a_picture_that_is_gone_is_drawn_again(done: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(done.root, folder.root)
    lost = folder.picture(CACHED, 7)
    content = lost.read_bytes()
    lost.unlink()
    result = bench("run", *options(done.root)[1:-1], folder.root, "--resume")
    assert result.exit_code == 0, result.output
    assert lost.read_bytes() == content
    assert len((folder.record_folder / "0.jsonl").read_text().splitlines()) == len(done.records()) + 5


class Apart(Share):
    """One of several that do not wait for each other."""

    def exchange(self, value: Any) -> list[Any]:
        return [value]


@pytest.mark.parametrize("rank", sweep((0, 1), (1,)))
def test_a_share_is_every_other_batch_of_the_whole(rank: int, done: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(done.root, folder.root, ignore=shutil.ignore_patterns("records", "images"))
    subject = EmbeddedSubject(torch.device("cpu"), None, {})
    settings = load_sweep(str(done.root.parent / "small.yaml"))
    prompts, watcher = done.prompts()[:10], Interrupting(-1)
    Runner(subject, settings, prompts, STEPS, 5, folder, Apart(rank, 2), watcher).run()
    batch = range(5 * rank, 5 * rank + 5)
    assert list(folder.record_folder.iterdir()) == [folder.record_folder / f"{rank}.jsonl"]
    assert _told(folder.records()) == _told({k: r for k, r in done.records().items() if k[1] in batch})
    for name, index in folder.records():
        assert folder.picture(name, index).read_bytes() == done.picture(name, index).read_bytes()


def test_torchrun_numbers_the_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Share.of_environment() == Share(0, 1, 0)
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert Share.of_environment() == Share(3, 4, 1)
    assert Share.of_environment().of(range(10)) == [3, 7]


@pytest.mark.full
def test_two_processes_share_a_run(done: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*options(done.root)[:-1], folder.root]
    script = [
        "--no-python",
        sys.executable,
        "-c",
        "from fxcache.cli import main; main()",
        "bench",
        *map(str, words),
    ]
    ran = subprocess.run(
        [*torchrun, *script],
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert _told(folder.records()) == _told(done.records())
    shares = [read_records(path) for path in _split(folder)]
    assert len(shares) == 2
    assert {i for _, i in shares[0]} == {0, 1, 2, 3, 4, 10, 11, 12, 13, 14}
    assert not set(shares[0]) & set(shares[1])
    for name, index in folder.records():
        assert folder.picture(name, index).read_bytes() == done.picture(name, index).read_bytes()


def _split(folder: RunFolder) -> list[Path]:
    """Each process's record file in a folder of its own."""
    found = []
    for path in sorted(folder.record_folder.glob("*.jsonl")):
        target = folder.root / f"only-{path.stem}"
        target.mkdir()
        shutil.copy(path, target)
        found.append(target)
    return found


@pytest.mark.full
def test_a_killed_process_resumes(done: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    words = [*options(done.root)[:-1], folder.root]
    command = [sys.executable, "-c", "from fxcache.cli import main; main()", "bench", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = folder.record_folder / "0.jsonl"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and (not path.exists() or path.stat().st_size < 2000):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(folder.records()) < len(done.records())
    ran = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert _told(folder.records()) == _told(done.records())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--sweep", "nowhere.yaml"], "name a YAML file, or one of default, plans, taylorseer"),
        (["--model", "nowhere"], "no diffusers pipeline there"),
        (["--prompts", "nowhere.txt"], "no such file"),
        (["--dtype", "float31"], "is not a torch dtype"),
        (["--arg", "height=64"], "it takes only guidance_scale"),
        (["--steps", "0"], "--steps 0: it must be at least 1"),
    ],
)
def test_a_mistake_gets_one_line(words: list[str], says: str, tmp_path: Path) -> None:
    result = bench("run", "--out", tmp_path / "run", *words)
    assert result.exit_code == 1
    assert says in result.output and result.output.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_shipped_sweeps_are_the_documents() -> None:
    document = list(read_document()["rows"])
    assert [s.name for s in load_sweep("default").settings] == document
    taylor = [s.name for s in load_sweep("taylorseer").settings]
    assert taylor == [name.replace("_T0O1_", "_T1O1_") for name in document]
    assert all(s.config.forecaster is not None for s in load_sweep("taylorseer").settings[1:])
    assert Path("bench/sweeps/default.yaml").samefile("fxcache/benchmark/sweeps/default.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("settings: 3", "it must hold 'settings:'"),
        ("- a", "it must hold 'settings:'"),
        ("settings: [F1]", "cannot read 'F1' as a cache setting"),
        ("settings: [{name: a, max_warmup_steps: 2}, {name: a}]", "two settings are named 'a'"),
        ("settings: [{name: ../a}]", "needs a 'name' that can be a folder's"),
        ("settings: [", "not YAML"),
    ],
)
def test_a_broken_sweep_says_why(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(SweepError, match=says.replace("[", r"\[")) as caught:
        load_sweep(str(tmp_path / "s.yaml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "a red cat\n\n two dogs \n"),
        ("a.csv", 'Prompts,Category\n"a red cat",Colors\ntwo dogs,Counting\n'),
        ("a.jsonl", '{"id": 1, "prompt": "a red cat"}\n{"id": 2, "prompt": "two dogs"}\n'),
    ],
)
def test_prompt_files(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert read_prompts(tmp_path / name) == ("a red cat", "two dogs")


@pytest.mark.parametrize(("name", "content"), [("a.txt", "\n"), ("a.csv", "words\nx\n"), ("a.jsonl", "{")])
def test_prompt_files_without_prompts(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(PromptError, match=r"a\.(txt|csv|jsonl)"):
        read_prompts(tmp_path / name)


def test_the_embedded_model_draws_its_classes_only() -> None:
    subject = EmbeddedSubject(torch.device("cpu"), None, {})
    subject.check(["Bag", "Coat"])
    with pytest.raises(PromptError, match="'cat' is none of its classes; they are T-shirt"):
        subject.check(["Bag", "cat"])


def test_prompts_repeat_with_new_seeds() -> None:
    prompts = expand(["a", "b"], 2, first_seed=7)
    assert [(p.index, p.text, p.seed) for p in prompts] == [
        (0, "a", 7),
        (1, "b", 8),
        (2, "a", 9),
        (3, "b", 10),
    ]
    assert [len(b) for b in batches(prompts, 3)] == [3, 1]


def test_torn_record_lines_are_cut(tmp_path: Path) -> None:
    record = Record("s", 0, "a", 0, 1, 4, 0.5, 1.0, 0.0, {})
    path = tmp_path / "0.jsonl"
    RecordFile(path).add([record])
    with path.open("a") as file:
        file.write(record.to_line()[:-9])
    assert list(read_records(tmp_path).values()) == [record]
    RecordFile(path).add([Record("s", 1, "a", 1, 1, 4, 0.5, None, None, {})])
    assert [k for k in read_records(tmp_path)] == [("s", 0), ("s", 1)]
