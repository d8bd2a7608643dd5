"""For what hardware native code was compiled, and whether this machine is such.

A GPU runs machine code for its own kind: on CUDA that is its compute capability ("9.0"), on ROCm the name of
its architecture ("gfx942"), elsewhere the device's name, where torch says it.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch

from ..devices import is_usable, name_of

# What torch calls the vector instructions of x86-64, each including those before it.
VECTORS = ("DEFAULT", "AVX2", "AVX512")
# From here on Triton compiles for what a capability has alone (sm_90a), and no other runs that code. Before,
# those of the same major number and a higher minor one do.
SPECIFIC = (9, 0)


class Misfit(NamedTuple):
    """Why code cannot run here, and what to do about it."""

    why: str
    do: str


def accelerators(devices: Iterable[str]) -> list[torch.device]:
    """Those of `devices` ("cpu", "cuda:0") that are no processors, each once, in order."""
    found = {torch.device(name) for name in devices}
    return sorted((d for d in found if d.type not in ("cpu", "meta")), key=lambda d: (d.type, d.index or 0))


def hardware(devices: Iterable[str], built_for: Mapping[str, str] | None = None) -> dict[str, str]:
    """This machine, as far as code that runs on `devices` depends on it.

    built_for: kind of device -> for what its code was compiled, where that is not the device that is here.
    Beside what `misfit` compares, it says for CUDA the `arch` ("sm_90") and the `cuda_version`.
    """
    found = {"machine": platform.machine(), "vectors": torch.backends.cpu.get_cpu_capability()}
    here = {d.type: _described(d) for d in accelerators(devices) if is_usable(d)}
    kinds = {kind: what for kind, what in (here | dict(built_for or {})).items() if what}
    if "cuda" in kinds:
        gfx = "." not in kinds["cuda"]
        found["arch"] = kinds["cuda"] if gfx else f"sm_{kinds['cuda'].replace('.', '')}"
        found["cuda_version"] = str(torch.version.hip if gfx else torch.version.cuda)
    return found | kinds


def misfit(needed: Mapping[str, str], devices: Iterable[str]) -> Misfit | None:
    """Why code that was compiled for `needed` and runs on `devices` cannot run here; None where it may."""
    again = "export it again on such a machine as this"
    here = hardware(())
    if needed.get("machine", here["machine"]) != here["machine"]:
        return Misfit(f"it was compiled for {needed['machine']} and this machine is {here['machine']}", again)
    vectors = needed.get("vectors")
    if vectors in VECTORS and here["vectors"] in VECTORS[: VECTORS.index(vectors)]:
        return Misfit(
            f"it was compiled for processors with {vectors} and this one has {here['vectors']}", again
        )
    found = (_misfit_of(device, needed.get(device.type)) for device in accelerators(devices))
    return next(filter(None, found), None)


def _misfit_of(device: torch.device, built: str | None) -> Misfit | None:
    kind = "CUDA" if device.type == "cuda" else device.type
    wanted = f"a {kind} device" if built is None else f"a {kind} device of {_in_words(device, built)}"
    if not is_usable(torch.device(device.type)):
        return Misfit(
            f"it runs on {wanted} and torch sees none here",
            f"load it on a machine with {wanted}, its driver and this build of torch, or export it for cpu",
        )
    if not is_usable(device):
        what = f"it runs on {device} and this machine has no device of that number"
        return Misfit(what, "give fxcache.load() a device_index= that there is")
    here = _described(device)
    if built is None or not here or _runs_on(built, here):
        return None
    return Misfit(
        f"it was compiled for {_in_words(device, built)} and {device} has {_in_words(device, here)}",
        f"export it for {_in_words(device, here)}, or load it on {wanted}",
    )


def _described(device: torch.device) -> str:
    if device.type != "cuda":
        return name_of(device) or ""
    if torch.version.hip is not None:
        # Without the features behind a colon ("sramecc+"), which code is compiled for alike as a rule.
        return str(torch.cuda.get_device_properties(device).gcnArchName).partition(":")[0]
    return "{}.{}".format(*torch.cuda.get_device_capability(device))


def _in_words(device: torch.device, what: str) -> str:
    return f"capability {what}" if device.type == "cuda" and what[0].isdigit() else what


def _runs_on(built: str, here: str) -> bool:
    """Whether code for `built` runs on `here`, both as `_described` says it."""
    try:
        (major, minor), (its, own) = ([int(n) for n in what.split(".")] for what in (built, here))
    except ValueError:  # no capability
        return built == here
    if (major, minor) >= SPECIFIC:
        return (major, minor) == (its, own)
    return major == its and minor <= own
