"""What of fxcache works here: each probe tries the cheapest thing that needs what it asks for."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sysconfig
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from packaging.requirements import Requirement
from torch import nn

from ..backends.absent_gpu import assembled
from ..backends.export_elsewhere import cuda_header
from ..backends.gpus import GPUS
from ..benchmark.machine import installed
from ..errors import TrajectoryWarning
from ..torch_private import builds_for_cuda

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "triton")
TENSORRT = ("torch-tensorrt", "torch-tensorrt-rtx")
PROGRAM = (
    '#include <Python.h>\n#include <omp.h>\nextern "C" int threads() { return omp_get_max_threads(); }\n'
)
SECONDS = 60  # that a compiler may take for it


@dataclass(frozen=True)
class Found:
    """What works, or what to do about it. detail: one line."""

    name: str
    works: bool
    detail: str


def versions() -> list[Found]:
    """Installed packages, and whether each is one that this fxcache supports."""
    wanted = {r.name: r.specifier for r in map(Requirement, importlib.metadata.requires("fxcache") or ())}
    rows = [Found("python", True, platform.python_version())]
    for name in (*PACKAGES, *TENSORRT):
        version = installed(name)
        if version is None:
            continue
        allowed = wanted.get(name)
        fits = allowed is None or allowed.contains(version.partition("+")[0], prereleases=True)
        rows.append(Found(name, fits, version if fits else f"{version}: install '{name}{allowed}'"))
    return rows


def device() -> Found:
    """What fxcache runs on by default."""
    if torch.cuda.is_available():
        props = torch.cuda.get_device_properties(0)
        more = f" and {torch.cuda.device_count() - 1} more" if torch.cuda.device_count() > 1 else ""
        size = props.total_memory / 2**30
        return Found("device", True, f"{props.name}{more}, {size:.0f} GiB, CUDA {torch.version.cuda}")
    if torch.version.cuda is None:
        return Found("device", True, f"CPU ({platform.machine()}); torch is built without CUDA")
    why = "torch is built for CUDA, but sees no GPU: torch's CPU build would do, and is smaller by gigabytes"
    return Found("device", True, f"CPU ({platform.machine()}); {why}")


def works() -> list[Found]:
    """What of fxcache does, and of the others why not and what to do."""
    compiler = _compiler()
    gpu = torch.cuda.is_available()
    return [
        _cache(),
        Found("compile, export for CPU", compiler.works, compiler.detail),
        _on_gpu("compile, export for CUDA", gpu, compiler),
        _elsewhere(gpu, compiler),
        Found("CUDA graphs (reduce-overhead)", gpu, "a GPU is there" if gpu else "needs a GPU"),
        _tensorrt(gpu),
        _module("LoRA before the cache", "peft", "pip install peft"),
        _drawing(),
        _bench(),
    ]


def package(path: Path) -> Found:
    """Whether a package can be loaded here. Nothing of it is run."""
    from ..errors import PackageError
    from ..package.manifest import read_manifest

    try:
        manifest = read_manifest(path)
    except PackageError as error:
        return Found(path.name, False, " ".join(str(error).split()))
    for kind in manifest.device_kinds:
        if kind == "cuda" and not torch.cuda.is_available():
            return Found(path.name, False, "it is for CUDA, and there is no GPU: export it for the CPU")
    return Found(path.name, True, f"{manifest.model}, {manifest.notation}, by torch {manifest.torch}")


def _cache() -> Found:
    """Cache a small model, and run it until a step is a hit."""
    from .. import transform

    name = "cache, plans, calibration"
    layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
    model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
    try:
        cached = transform(model, "F1B1_W1M0MC0_T0O1_R1000")
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", TrajectoryWarning)  # it has no timestep
            for _ in range(3):
                cached(src=torch.ones(3, 1, 8))
        hits = cached.stats().cached
    except Exception as error:
        return Found(name, False, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return Found(name, hits == 2, "a small model was cached and run" if hits == 2 else "no step was a hit")


def _compiler() -> Found:
    """TorchInductor compiles C++ that includes Python.h and uses OpenMP."""
    named = os.environ.get("CXX") or next((c for c in ("g++", "clang++") if shutil.which(c)), None)
    if named is None or shutil.which(named) is None:
        return Found("", False, "no C++ compiler: install g++ (build-essential), or set CXX")
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "probe.cpp"), Path(folder, "probe.so")
        source.write_text(PROGRAM)
        headers = f"-I{sysconfig.get_paths()['include']}"
        words = [named, "-shared", "-fPIC", "-fopenmp", headers, str(source), "-o", str(made)]
        return _compiled(named, words)


def _compiled(named: str, words: Sequence[str]) -> Found:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Found("", False, f"{named} does not run: {error}")
    if done.returncode == 0:
        return Found("", True, f"{named} compiled a program with Python.h and OpenMP")
    first = next((line for line in done.stderr.splitlines() if "error" in line), "it failed")
    package = (
        "python3-dev" if "Python.h" in first else "libomp-dev" if "omp.h" in first else "build-essential"
    )
    return Found("", False, f"{named}: {first.rpartition('error: ')[2][:120]} (install {package})")


def _on_gpu(name: str, gpu: bool, compiler: Found) -> Found:
    if not gpu:
        return Found(name, False, "needs a GPU")
    if not importlib.util.find_spec("triton"):
        return Found(name, False, "needs triton, which comes with torch's CUDA build")
    return Found(name, compiler.works, compiler.detail)


def _elsewhere(gpu: bool, compiler: Found) -> Found:
    """Which GPUs that are not here can be compiled for."""
    name = "export --device cuda --arch"
    if gpu:
        return Found(name, False, "there is a GPU: leave --arch out, or hide it, CUDA_VISIBLE_DEVICES=")
    if not builds_for_cuda():
        return Found(name, False, f"needs torch's CUDA build, with Triton; torch {torch.__version__} is none")
    header = cuda_header()
    if header is None:
        return Found(
            name, False, "needs a CUDA toolkit, whose cuda.h is not found: set CUDA_HOME to its folder"
        )
    targets = [arch for arch in GPUS if assembled(arch)]
    if not targets:
        return Found(name, False, f"Triton's ptxas assembles for none of {', '.join(GPUS)}")
    if not compiler.works:
        return Found(name, False, compiler.detail)
    return Found(name, True, f"{', '.join(targets)}, with the toolkit of {header}")


def _tensorrt(gpu: bool) -> Found:
    name = "TensorRT"
    found = [f"{package} {version}" for package in TENSORRT if (version := installed(package))]
    if not found:
        return Found(name, False, "needs pip install 'fxcache[tensorrt]' or 'fxcache[tensorrt-rtx]'")
    try:
        importlib.import_module("torch_tensorrt")
    except Exception as error:
        return Found(name, False, f"{found[0]} cannot be imported: {' '.join(str(error).split())[:120]}")
    if not gpu:
        return Found(name, False, f"{found[0]} is there, but no GPU; fxcache tensorrt-report works")
    return Found(name, True, found[0])


def _module(name: str, module: str, remedy: str) -> Found:
    there = importlib.util.find_spec(module) is not None
    version = installed(module)
    return Found(name, there, f"{module} {version}" if there else f"needs {module}: {remedy}")


def _bench() -> Found:
    """matplotlib comes with fxcache; these do not."""
    name, needed = (
        "fxcache bench metrics, report",
        {"scipy": "scipy", "adjustText": "adjustText", "jinja2": "Jinja2"},
    )
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        return Found(name, False, f"needs {', '.join(missing)}: pip install 'fxcache[bench]'")
    return Found(name, True, ", ".join(f"{package} {installed(package)}" for package in needed.values()))


def _drawing() -> Found:
    name = "drawing graphs"
    if importlib.util.find_spec("graphviz") is None:
        return Found(name, False, "needs graphviz: pip install 'fxcache[draw]', and its program dot")
    if shutil.which("dot") is None:
        return Found(name, False, "needs graphviz's program dot: install the system's package graphviz")
    return Found(name, True, "graphviz and dot are there")
