"""A package: written, loaded, run; in a fresh process, too; refused where it does not fit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

import fxcache
from fxcache import PackagedTransformer
from fxcache.errors import FxcacheError, PackageError, PackageInputError
from fxcache.package.manifest import ENTRY

from .rows import Cells, Check, CheckFailed
from .settings import SETTINGS, STEPS
from .setup import Setup
from .subjects import Subject, short
from .trajectories import Run, require_alike, require_close, run

FRESH = 300  # seconds that a process may take to import torch and run a package
ROOT = Path(__file__).parents[2]


def packages(setup: Setup) -> Iterator[Check]:
    """Those of DBCache with TaylorSeer."""
    with tempfile.TemporaryDirectory() as folder:
        package = Package(short(setup), Path(folder))
        yield Check("export, load, run", package.compare, 120)
        yield Check("in a fresh process", package.compare_in_process, 40)
        yield Check("refused: another torch", package.refuse_torch)
        yield Check("refused: inputs of another dtype", package.refuse_inputs)


class Package:
    """One in a folder, which its first check writes."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        self._subject, self._path = subject, folder / "flux.pt2"
        self._loaded: PackagedTransformer | None = None
        self._run: Run | None = None

    def compare(self) -> Cells:
        subject = self._subject
        cached = fxcache.transform(subject.model, SETTINGS[0].config())
        expected = run(cached, subject)
        begin = time.perf_counter()
        fxcache.export(cached, self._path, subject.call(0, STEPS))
        written = time.perf_counter()
        self._loaded = fxcache.load(self._path)
        loaded = time.perf_counter()
        cells: Cells = {
            "export, s": written - begin,
            "load, s": loaded - written,
            "MiB": self._path.stat().st_size / 2**20,
            "hits": expected.cached,
        }
        self._run = run(self._loaded, subject)
        cells["error"] = require_alike(self._run, expected, subject.dtype)
        require_alike(run(self._loaded, subject), expected, subject.dtype, "a second trajectory")
        return cells

    def compare_in_process(self) -> Cells:
        """It needs this folder for `bench.gpu.replay` alone: the package has no more of the model's code."""
        if self._run is None:
            raise CheckFailed("there is no package")
        calls, found = self._path.with_name("calls.pt"), self._path.with_name("found.pt")
        torch.save([self._subject.call(step, STEPS) for step in range(STEPS)], calls)
        command = [sys.executable, "-m", "bench.gpu.replay", *map(str, (self._path, calls, found))]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=FRESH, check=False)
        if done.returncode:
            raise CheckFailed(f"it ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        outputs = torch.load(found, weights_only=True)
        return {"error": require_close(outputs, self._run.outputs, self._subject.dtype)}

    def refuse_torch(self) -> Cells:
        """A manifest that names another torch than this one."""
        other = self._path.with_name("other.pt2")
        shutil.copy(self._path, other)
        with warnings.catch_warnings(), zipfile.ZipFile(other, "a") as archive:
            warnings.simplefilter("ignore")  # the name is there twice then, and the second counts
            name = next(n for n in archive.namelist() if n.endswith("/" + ENTRY))
            archive.writestr(name, json.dumps({**json.loads(archive.read(name)), "torch": "1.0"}))
        try:
            fxcache.load(other)
        except PackageError as error:
            return {"said": str(error).replace(str(other.parent), "")}
        raise CheckFailed("it was loaded")

    def refuse_inputs(self) -> Cells:
        if self._loaded is None:
            raise CheckFailed("there is no package")
        call = {
            name: v.half() if isinstance(v, torch.Tensor) else v
            for name, v in self._subject.call(0, STEPS).items()
        }
        try:
            self._loaded(**call)
        except PackageInputError as error:
            return {"said": str(error)}
        except FxcacheError as error:
            raise CheckFailed(f"refused as {type(error).__name__}: {error}") from error
        raise CheckFailed("it ran")
