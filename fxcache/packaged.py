"""`PackagedTransformer`: a package that stands in a pipeline like the cached model that it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from .callers import Callers
from .config import CacheConfig
from .flops import StepFlops
from .manifest import Manifest, TensorEntry, evaluate
from .packagecall import flat_inputs, open_sizes, rebuild
from .state import record_of
from .stats import ContextStats, Stats, context_stats


class Kept:
    """The state of one caller of a package. shapes: of the inputs that it is for; none once it is over."""

    def __init__(self, named: bool = False) -> None:
        self.shapes: tuple[torch.Size, ...] = ()
        self.state: dict[str, torch.Tensor] = {}

    @property
    def live(self) -> bool:
        return bool(self.shapes)

    def finish(self) -> None:
        """Free the state; the small record stays for `stats()`."""
        self.shapes = ()
        self.state = record_of(self.state)

    def forget(self) -> None:
        self.shapes, self.state = (), {}


class PackagedTransformer(nn.Module):
    """A loaded package. Called like the model; each context has a state of its own.

    `run(*inputs, *state)` is the package itself, for those who keep state themselves: `new_state` gives
    one, `manifest` says in what order everything goes. It takes contiguous tensors, and does not look.
    """

    def __init__(self, manifest: Manifest, run: Any, max_contexts: int = 64) -> None:
        super().__init__()
        self.manifest = manifest
        self.run = run
        self.cache_config = CacheConfig.from_dict(manifest.config)
        self._callers = Callers(max_contexts, Kept)

    @property
    def config(self) -> Any:
        """The exported model's config."""
        from diffusers.configuration_utils import FrozenDict

        return FrozenDict(self.manifest.model_config)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first floating input."""
        found = (getattr(torch, e.dtype) for e in self.manifest.inputs)
        return next((d for d in found if d.is_floating_point), torch.float32)

    @property
    def device(self) -> torch.device:
        return torch.device(self.manifest.inputs[0].device)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the exported model's forward. Raises `PackageInputError`, `TooManyContextsError`."""
        tensors = flat_inputs(self.manifest, args, kwargs)
        sizes = open_sizes(self.manifest, tensors)
        kept = self._callers.mine()
        shapes = tuple(t.shape for t in tensors)
        if kept.shapes != shapes:
            kept.state, kept.shapes = self.new_state(sizes), shapes
        try:
            with torch.no_grad():
                results = self.run(*tensors, *kept.state.values())
        except BaseException:
            kept.forget()  # a half-made step must leave nothing that a later one could use
            raise
        return rebuild(self.manifest.outputs, results)

    def new_state(self, sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
        """Fresh state tensors, by name and in order, for these sizes (`input_sizes` gives them)."""
        return {e.name: _allocate(e, sizes) for e in self.manifest.state}

    def input_sizes(self, *args: Any, **kwargs: Any) -> dict[str, int]:
        """The open sizes of a call, by the names that the manifest uses."""
        return open_sizes(self.manifest, flat_inputs(self.manifest, args, kwargs))

    # ------------------------------------------------------------------ contexts and report

    def cache_context(self, name: str, **information: Any) -> AbstractContextManager[None]:
        """Within the block, calls use the state `name`."""
        return self._callers.named(name)

    def reset(self) -> None:
        """Forget all states."""
        self._callers.reset()

    def _reset_stateful_cache(self, recurse: bool = True) -> None:
        # diffusers calls this when a pipeline is done; the record stays for `stats()`.
        self._callers.finish()

    def stats(self) -> Stats:
        """What was cached in the last trajectory of each context."""
        contexts: dict[str, ContextStats] = {}
        for name, kept in self._callers.entries():
            if kept.state:
                contexts[name] = context_stats(kept.state, self.manifest.segments, self._flops())
        return Stats(contexts)

    def _flops(self) -> StepFlops | None:
        found = self.manifest.flops
        return (
            None
            if found is None
            else StepFlops(found["trunk"], tuple(found["compute"]), tuple(found["skip"]))
        )


def _allocate(entry: TensorEntry, sizes: Mapping[str, int]) -> torch.Tensor:
    shape = [evaluate(s, sizes) for s in entry.shape]
    dtype, device = getattr(torch, entry.dtype), torch.device(entry.device)
    if entry.initial is not None:
        return torch.tensor(entry.initial, dtype=dtype, device=device).reshape(shape)
    return torch.zeros(shape, dtype=dtype, device=device)
