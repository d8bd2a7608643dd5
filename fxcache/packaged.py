"""`PackagedTransformer`: a package that stands in a pipeline like the cached model that it was made of."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from .callers import Callers
from .config import CacheConfig
from .flops import StepFlops
from .manifest import Manifest, TensorEntry, evaluate
from .packagecall import flat_inputs, open_sizes, rebuild, without_autocast
from .sealed import Sealed
from .state import record_of
from .stats import ContextStats, Stats, context_stats

REASON = "a package is compiled already"  # what a graph break says


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


class PackagedTransformer(Sealed):
    """A loaded package. Called like the model; each context has a state of its own.

    A copy shares the compiled code and has states of its own. A pickle holds the package's path, not its
    contents: the file must be there, unchanged, where it is unpickled.

    `run(*inputs, *state)` is the package itself, for those who keep state themselves: `new_state` gives
    one, `manifest` says in what order everything goes. It takes contiguous tensors, and does not look.
    """

    manifest: Manifest
    run: Callable[..., Any]
    cache_config: CacheConfig
    _callers: Callers[Kept]
    _reload: functools.partial[PackagedTransformer] | None

    def __init__(
        self,
        manifest: Manifest,
        run: Callable[..., Any],
        max_contexts: int = 64,
        reload: functools.partial[PackagedTransformer] | None = None,
    ) -> None:
        """reload: loads the same package again; None for one that was not loaded from a file."""
        super().__init__(manifest.model)
        self.__dict__.update(
            manifest=manifest,
            run=run,
            cache_config=CacheConfig.from_dict(manifest.config),
            _callers=Callers(max_contexts, Kept),
            _reload=reload,
        )

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

    @torch.compiler.disable(reason=REASON)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the exported model's forward.

        Raises:
            ArgumentsError, PackageInputError: the package is not for such a call. PackageUseError: gradients
            are asked for, or autocast is not as it was at export. TooManyContextsError.
        """
        self._refuse_tracing()
        tensors = flat_inputs(self.manifest, args, kwargs)
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            self._refuse("compute gradients", "Call it within torch.no_grad().")
        sizes = open_sizes(self.manifest, tensors)
        kept = self._callers.mine()
        shapes = tuple(t.shape for t in tensors)
        if kept.shapes != shapes:
            kept.state, kept.shapes = self.new_state(sizes), shapes
        try:
            with torch.no_grad(), without_autocast(self.manifest):
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

    # ------------------------------------------------------------------ copies

    def __copy__(self) -> PackagedTransformer:
        return PackagedTransformer(self.manifest, self.run, self._callers.limit, self._reload)

    def __deepcopy__(self, memo: dict[int, Any]) -> PackagedTransformer:
        copied = memo[id(self)] = self.__copy__()
        copied.__setstate__(copy.deepcopy(self._hung(), memo))
        return copied

    def __reduce__(self) -> Any:
        if self._reload is None:
            self._refuse("be pickled", "It was not loaded from a file: fxcache.load() gives one that can.")
        return self._reload.func, self._reload.args, self._hung() or None

    def __setstate__(self, hung: dict[str, Any]) -> None:
        self.__dict__.update(hung)

    def __repr__(self) -> str:
        return f"PackagedTransformer({self.sealed}, {self.cache_config})"


def _allocate(entry: TensorEntry, sizes: Mapping[str, int]) -> torch.Tensor:
    shape = [evaluate(s, sizes) for s in entry.shape]
    dtype, device = getattr(torch, entry.dtype), torch.device(entry.device)
    if entry.initial is not None:
        return torch.tensor(entry.initial, dtype=dtype, device=device).reshape(shape)
    return torch.zeros(shape, dtype=dtype, device=device)
