"""The graph of a package, as trajectories know it: what the manifest says, and the code that runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..capture.call_signature import Call
from ..config import CacheConfig
from ..environment.ambient_settings import ambient_key
from ..ir.keys import SETTINGS
from ..ir.roles import Roles
from ..ir.settings import initial_rows
from ..runtime.flops import StepFlops
from ..runtime.served_graph import Served
from .arguments import open_sizes, plain
from .manifest import Manifest, TensorEntry

MAX_KINDS = 64  # kinds of calls that are known to fit


class PackagedGraph:
    """Serves the calls of one loaded package.

    code: the compiled code, which takes plain inputs and the state.
    """

    def __init__(self, manifest: Manifest, code: Callable[..., Any]) -> None:
        self._manifest = manifest
        self._code = code
        self._fitting: set[tuple[Any, ...]] = set()

    @property
    def roles(self) -> Roles:
        return self._manifest.roles

    @property
    def segments(self) -> int:
        return self._manifest.segments

    @property
    def asks_host(self) -> bool:
        """No: the decision lies in the compiled code."""
        return False

    def call(self, tensors: list[torch.Tensor]) -> Call:
        """A call with these inputs. Its key tells calls apart as that of the exported model does.

        Raises `PackageInputError` where the package does not take them.
        """
        kinds = tuple((t.shape, t.dtype, t.device, t.is_contiguous() or t.stride()) for t in tensors)
        if kinds not in self._fitting:
            open_sizes(self._manifest, tensors)
            if len(self._fitting) >= MAX_KINDS:
                self._fitting.clear()
            self._fitting.add(kinds)
        return Call((ambient_key(), *kinds), tensors)

    def run(self, *values: torch.Tensor) -> tuple[Any, ...]:
        """One step. The inputs may lie in memory in any way; the state is written to."""
        count = len(self._manifest.inputs)
        return tuple(self._code(*map(plain, values[:count]), *values[count:]))

    def allocate(self, call: Call, config: CacheConfig) -> dict[str, torch.Tensor]:
        return self.state(open_sizes(self._manifest, call.tensors), config)

    def state(self, sizes: Mapping[str, int], config: CacheConfig) -> dict[str, torch.Tensor]:
        """Fresh state tensors for these dynamic sizes, with the settings of `config`."""
        return {e.name: _allocate(e, sizes, config) for e in self._manifest.state}

    def shares_state(self, other: Served, call_key: tuple[Any, ...]) -> bool:
        """A package has one graph."""
        return self is other

    def flops(self, call_key: tuple[Any, ...]) -> StepFlops | None:
        """Those of the example that was exported; not known for other sizes."""
        found = self._manifest.flops
        shapes = [list(kind[0]) for kind in call_key[1:]]
        if found is None or found["shapes"] != shapes:
            return None
        return StepFlops(found["trunk"], tuple(found["compute"]), tuple(found["skip"]))


def _allocate(entry: TensorEntry, sizes: Mapping[str, int], config: CacheConfig) -> torch.Tensor:
    shape = [int(size(sizes)) for size in entry.sizes]
    dtype, device = getattr(torch, entry.dtype), torch.device(entry.device)
    settable = SETTINGS.fullmatch(entry.name)
    initial = initial_rows(entry.name, config) if settable else entry.initial
    if initial is not None:
        return torch.tensor(initial, dtype=dtype, device=device).reshape(shape)
    return torch.zeros(shape, dtype=dtype, device=device)
