"""What a package says of itself: a readable JSON entry, understood before any native code is loaded."""

from __future__ import annotations

import functools
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch

from ..errors import PackageError
from ..ir.roles import Roles
from .hardware import accelerators
from .size_expr import SizeFunction, size_function

FORMAT = 3  # raised when an older fxcache could not read a package any more
OLDEST = 3  # what can still be read; before, the state was float64, and settings for it other numbers
ENTRY = "fxcache.json"
Backend = Literal["inductor", "tensorrt"]


@dataclass(frozen=True)
class TensorEntry:
    """A flat input, a state tensor or an output. shape: numbers, or expressions in input sizes."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    device: str
    initial: list[list[float]] | None = None

    @functools.cached_property
    def sizes(self) -> tuple[SizeFunction, ...]:
        """Its shape as functions of the dynamic sizes. Raises `ValueError` for what is no expression."""
        return tuple(map(size_function, self.shape))


@dataclass(frozen=True)
class Manifest:
    """The JSON entry of a package.

    inputs: flat tensors in order. roles: which of them, by number, is the sample, which the time, and which
        are conditioning. arguments: the forward's argument structure, tensors replaced by
        {"tensor": i}; defaults: plain values of arguments that may be left out. flops: of a step at the
        sizes of the example (shapes).
    outputs: the structure of the result, likewise. conditions: what sizes must fulfil.
    backend: what runs the compiled code of the package. hardware: what that was compiled for
        (nothing for engines, which say so themselves). autocast: kind of device -> dtype, as it was in
        force around the export. kernels: files of a GPU's machine code that it holds. method: which of the
        model's methods a call of it is.
    """

    format: int
    fxcache: str
    torch: str
    model: str
    model_config: dict[str, Any]
    config: dict[str, Any]
    notation: str
    segments: int
    timestep: str | None
    parameters: tuple[str, ...]
    inputs: tuple[TensorEntry, ...]
    roles: Roles
    arguments: dict[str, Any]
    defaults: dict[str, Any]
    outputs: Any
    conditions: tuple[str, ...]
    state: tuple[TensorEntry, ...]
    flops: dict[str, Any] | None = None
    backend: Backend = "inductor"
    hardware: dict[str, str] = field(default_factory=dict)
    autocast: dict[str, str] = field(default_factory=dict)
    kernels: int = 0
    method: str = "forward"

    @functools.cached_property
    def devices(self) -> set[str]:
        """Where the inputs and the state are."""
        return {e.device for e in (*self.inputs, *self.state)}

    @functools.cached_property
    def device_kinds(self) -> tuple[str, ...]:
        """ "cpu", "cuda" ..., in order."""
        return tuple(sorted({torch.device(d).type for d in self.devices}))

    @functools.cached_property
    def checks(self) -> tuple[SizeFunction, ...]:
        """The conditions as functions of the dynamic sizes. Raises `ValueError` for what is none."""
        return tuple(map(size_function, self.conditions))

    @functools.cached_property
    def device_index(self) -> int:
        """The number of the accelerator that it is for; -1 for the processor."""
        return next((d.index or 0 for d in accelerators(self.devices)), -1)

    def on_device(self, index: int) -> Manifest:
        """The same with what is on an accelerator on the one of that kind with this number."""

        def moved(entries: tuple[TensorEntry, ...]) -> tuple[TensorEntry, ...]:
            kinds = {e.device: accelerators([e.device]) for e in entries}
            return tuple(
                replace(e, device=f"{kinds[e.device][0].type}:{index}") if kinds[e.device] else e
                for e in entries
            )

        return replace(self, inputs=moved(self.inputs), state=moved(self.state))

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> Manifest:
        """Raises `ValueError`, `KeyError` or `TypeError` where `text` is no manifest of this format."""
        known = {f.name for f in fields(Manifest)}
        found = {name: value for name, value in json.loads(text).items() if name in known}
        for group in ("inputs", "state"):
            found[group] = tuple(_entry(e) for e in found[group])
        found["roles"] = _roles(found["roles"], len(found["inputs"]))
        found["conditions"] = tuple(found["conditions"])
        found["parameters"] = tuple(found["parameters"])
        manifest = Manifest(**found)
        # Understood now, not in the first call.
        _ = (manifest.checks, *(entry.sizes for entry in manifest.state))
        return manifest


def _entry(entry: Mapping[str, Any]) -> TensorEntry:
    return TensorEntry(**{**entry, "shape": tuple(entry["shape"])})


def _roles(fields: Mapping[str, Any], inputs: int) -> Roles:
    roles = Roles(fields["sample"], fields["time"], tuple(fields["conditioning"]))
    used = [i for i in (roles.sample, roles.time, *roles.conditioning) if i is not None]
    if not all(i in range(inputs) for i in used):
        raise ValueError(f"roles of {inputs} inputs: {roles}")
    return roles


def read_manifest(path: str | Path) -> Manifest:
    """The manifest of a package, read without running anything of it.

    Raises `PackageError` where the file is missing, no package, truncated, of a format that is not read or
    made for another torch.
    """
    file = Path(path)
    if not file.is_file():
        raise PackageError(file, "there is no such file", "write one with fxcache.export()")
    try:
        with zipfile.ZipFile(file) as archive:
            if archive.testzip() is not None:  # reads it all: AOTInductor loads code with a wrong sum, too
                raise PackageError(file, "it is damaged", "copy or export it again")
            names = [n for n in archive.namelist() if n.endswith("/" + ENTRY)]
            if not names:
                raise PackageError(file, f"it holds no {ENTRY}", "give a file that fxcache.export() wrote")
            text = archive.read(names[0]).decode()
    except zipfile.BadZipFile as error:
        raise PackageError(file, "it is no package, or it is truncated", "copy or export it again") from error
    return _checked(file, text)


def _checked(file: Path, text: str) -> Manifest:
    try:
        found = json.loads(text)["format"]
        if not isinstance(found, int) or found > FORMAT:
            raise PackageError(
                file, f"its format is {found} and this fxcache reads up to {FORMAT}", "upgrade fxcache"
            )
        if found < OLDEST:
            what = f"its format is {found}, of an older fxcache; this one reads {OLDEST} on"
            raise PackageError(file, what, "export it again with this fxcache")
        manifest = Manifest.from_json(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PackageError(file, f"its {ENTRY} is not what fxcache writes", "export it again") from error
    if manifest.torch != torch.__version__:
        raise PackageError(
            file,
            f"it was compiled for torch {manifest.torch} and this is {torch.__version__}",
            "export it again with this torch",
        )
    return manifest
