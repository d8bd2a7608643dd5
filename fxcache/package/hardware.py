"""For what hardware native code was compiled, and whether this machine is such."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping

import torch

# What torch calls the vector instructions of x86-64, each including those before it.
VECTORS = ("DEFAULT", "AVX2", "AVX512")


def hardware(devices: Iterable[str]) -> dict[str, str]:
    """This machine, as far as code that runs on `devices` ("cpu", "cuda:0") depends on it."""
    found = {"machine": platform.machine(), "vectors": torch.backends.cpu.get_cpu_capability()}
    gpus = sorted(d for d in devices if torch.device(d).type == "cuda")
    if gpus and torch.cuda.is_available():
        found["cuda"] = "{}.{}".format(*torch.cuda.get_device_capability(gpus[0]))
    return found


def misfit(needed: Mapping[str, str], devices: Iterable[str]) -> str | None:
    """Why code that was compiled for `needed` and runs on `devices` cannot run here; None where it may."""
    here = hardware(())
    if needed.get("machine", here["machine"]) != here["machine"]:
        return f"it was compiled for {needed['machine']} and this machine is {here['machine']}"
    vectors = needed.get("vectors")
    if vectors in VECTORS and here["vectors"] in VECTORS[: VECTORS.index(vectors)]:
        return f"it was compiled for processors with {vectors} and this one has {here['vectors']}"
    gpus = sorted(d for d in devices if torch.device(d).type == "cuda")
    if not gpus:
        return None
    if not torch.cuda.is_available():
        return "it runs on a CUDA GPU and torch sees none here"
    built = tuple(int(n) for n in needed.get("cuda", "0.0").split("."))
    major, minor = torch.cuda.get_device_capability(gpus[0])
    if built != (0, 0) and (major != built[0] or minor < built[1]):
        return f"it was compiled for CUDA capability {needed['cuda']} and this GPU has {major}.{minor}"
    return None
