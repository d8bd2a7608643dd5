"""One class per mistake in asking for a benchmark; each is a single line that says what to do."""

from __future__ import annotations

from pathlib import Path

from ..errors import FxcacheError


class BenchmarkError(FxcacheError):
    """Base of the benchmark's errors."""


class MissingPathError(BenchmarkError):
    """A file or folder that was named does not exist, or lacks what it must hold."""

    def __init__(self, option: str, path: Path | str, need: str) -> None:
        super().__init__(f"{option} {path}: {need}")


class MissingExtraError(BenchmarkError):
    """A library that this needs is not installed."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} needs {package}: pip install 'fxcache[{extra}]'")


class SweepError(BenchmarkError):
    """A sweep file cannot be read as a list of settings."""

    def __init__(self, sweep: str, why: str) -> None:
        super().__init__(f"sweep {sweep}: {why}")


class PromptError(BenchmarkError):
    """Prompts that the model cannot draw, or a prompt file that holds none."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"prompts of {where}: {why}")


class PipelineError(BenchmarkError):
    """A folder holds a pipeline that cannot be benchmarked."""

    def __init__(self, path: Path | str, why: str) -> None:
        super().__init__(f"--model {path}: {why}")


class RunExistsError(BenchmarkError):
    """The output folder holds a run already."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} holds a run already: add --resume to go on with it, or name another --out")


class RunChangedError(BenchmarkError):
    """A run is resumed with other settings than it was begun with."""

    def __init__(self, path: Path, differing: list[str]) -> None:
        names = ", ".join(differing)
        super().__init__(f"{path} was begun with other {names}: resume with the same, or name another --out")


class NoRunError(BenchmarkError):
    """A folder holds no run, or one without what is asked for."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"--run {path}: {why}")


class ImageRewardError(BenchmarkError):
    """The ImageReward process could not score the pictures."""

    def __init__(self, why: str) -> None:
        super().__init__(f"ImageReward: {why}")


class ProcessesError(BenchmarkError):
    """There are not as many processes as draw one sample together, or a multiple of that in a benchmark."""

    def __init__(self, team: int, processes: int) -> None:
        super().__init__(
            f"--ulysses {team}: there are {processes} processes; start {team} (of a benchmark also a "
            f"multiple): torchrun --nproc-per-node {team} --no-python fxcache ..."
        )


class LostProcessError(BenchmarkError):
    """Another process of a shared run is gone."""

    def __init__(self, rank: int, world: int, why: str) -> None:
        self.rank = rank
        super().__init__(
            f"process {rank} (of 0 to {world - 1}) {why}; what was drawn is kept: begin anew with --resume"
        )
