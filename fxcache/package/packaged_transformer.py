"""`PackagedTransformer`: a package that stands in a pipeline like the cached model that it was made of."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from ..config import CacheConfig, ConfigLike, as_config
from ..errors import GraphSettingError
from ..ir.keys import SETTINGS
from ..ir.settings import reconfigured, replanned
from ..plans import Plan
from ..runtime.contexts import Contexts
from ..runtime.sampling import Sampling
from ..runtime.sealed import Sealed
from ..runtime.stats import Stats
from .arguments import flat_inputs, open_sizes, rebuild, without_autocast
from .manifest import Manifest
from .package_graph import PackagedGraph

REASON = "a package is compiled already"  # what a graph break says


class PackagedTransformer(Sealed):
    """A loaded package. Called like the cached model that it was made of, and tells requests apart alike:
    by thread and `cache_context`, and in these by their conditioning, time and sample.

    A copy shares the compiled code and has states of its own. A pickle holds the package's path, not its
    contents: the file must be there, unchanged, where it is unpickled.

    manifest: what the package says of itself.
    cache_config: the config in force; at first the one that it was exported with.
    run: `run(*inputs, *state)` is the package itself, one step of it, for those who keep state themselves.
        inputs: the tensors of a call, in the order of `manifest.inputs`, which has the dtype and device of
        each; a shape there is numbers and expressions of the sizes that `input_sizes` finds.
        state: the tensors of `new_state`, in its order; written in place. They begin a new trajectory; whose
        calls they serve is the caller's to know.
        Returns the output tensors, flat, in the order in which `manifest.outputs` numbers them.
        It takes contiguous tensors and does not look: with other dtypes, devices or sizes than these, what
        it returns is undefined. It is not to be run twice at once on one state.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> src = torch.randn(3, 1, 8)  # [tokens, batch, channels]
        >>> cached = fxcache.transform(model, "F1B0_W1M0MC1_T0O1_R9")
        >>> package = fxcache.load(fxcache.export(cached, "encoder.pt2", {"src": src}))
        >>> package
        PackagedTransformer(TransformerEncoder, F1B0_W1M0MC1_T0O1_R9)

        As the model, with states of its own:

        >>> with torch.no_grad(), package.cache_context("cond"):
        ...     outputs = [package(src) for step in range(3)]
        ...     torch.testing.assert_close(outputs[0], model(src))
        >>> package.stats()["cond"].cached_steps
        (1,)
        >>> package.reset()
        >>> package.dtype, package.device, package.config
        (torch.float32, device(type='cpu'), FrozenDict())

        Or step by step, the state in hand:

        >>> sizes = package.input_sizes(src)
        >>> state = package.new_state(sizes)
        >>> (output,) = package.run(src, *state.values())
        >>> torch.equal(output, outputs[0]), int(state["clock_0"][0, 2])  # one step was run
        (True, 1)
    """

    manifest: Manifest
    run: Callable[..., Any]
    cache_config: CacheConfig
    _graph: PackagedGraph
    _contexts: Contexts
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
            _graph=PackagedGraph(manifest, run),
            _contexts=Contexts(max_contexts),
            _reload=reload,
        )

    def __getattr__(self, name: str) -> Any:
        if "manifest" in self.__dict__ and name == self.manifest.method:
            return self.__call__  # the method that was exported
        return super().__getattr__(name)

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
        """Where its inputs, state and outputs are."""
        return torch.device(self.manifest.inputs[0].device)

    @torch.compiler.disable(reason=REASON)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the exported model's forward: one step of the trajectory that the call continues.

        Raises:
            ArgumentsError, PackageInputError: the package is not for such a call. PackageUseError: gradients
            are asked for, autocast is not as it was at export, or a tracer runs it. TooManyContextsError:
            more contexts hold state than `max_contexts`.
        """
        self._refuse_tracing()
        tensors = flat_inputs(self.manifest, args, kwargs)
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            self._refuse("compute gradients", "Call it within torch.no_grad().")
        call = self._graph.call(tensors)
        with without_autocast(self.manifest):
            results = self._contexts.step(self._graph, call, self._contexts.config(self.cache_config))
        return rebuild(self.manifest.outputs, results)

    def new_state(self, sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
        """Fresh state tensors, by name and in order, on the package's device.

        sizes: the dynamic sizes of the calls that they are for, as `input_sizes` returns them.
        """
        return self._graph.state(sizes, self.cache_config)

    def input_sizes(self, *args: Any, **kwargs: Any) -> dict[str, int]:
        """The dynamic sizes of a call, by the names that the manifest uses.

        Raises:
            ArgumentsError, PackageInputError: the package is not for such a call.
        """
        return open_sizes(self.manifest, flat_inputs(self.manifest, args, kwargs))

    # ------------------------------------------------------------------ contexts and report

    def cache_context(
        self, name: str, config: ConfigLike = None, **information: Any
    ) -> AbstractContextManager[None]:
        """Within the block, calls use the state `name`; where an exception leaves it, their runs end.

        config: settings that hold within the block, and in contexts that are entered within it; None for
            those around it. information: diffusers', as there.

        Raises:
            GraphSettingError, PlanError: these settings need another package.
        """
        own = None if config is None else self._reconfigured(config)
        return self._contexts.within(name, own, Sampling.of(information))

    def reset(self, context: str | None = None) -> None:
        """Forget all states, or those of one context alone, whichever thread it is of."""
        self._contexts.reset(context)

    def configure(self, config: ConfigLike = None, **changes: Any) -> None:
        """Cache by other settings from here on: thresholds, warmup, limits, steps mask, plans, on and off.

        The package stays as it is. Trajectories under way end. Who keeps the state himself finds the settings
        in that of `new_state`.

        config: all settings, as `fxcache.transform` takes them; None for those in force. changes: fields of
            these to change. What is part of the package (Fn, Bn, the level, the forecaster, feedback,
            batch) stays.

        Raises:
            GraphSettingError, PlanError: these settings need another package. PackageUseError: it was made
            by an fxcache whose packages have one setting. And what building a config does.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> import fxcache
            >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
            >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
            >>> src, cached = torch.randn(3, 1, 8), fxcache.transform(model, "F1B0_W1M0MC1_T0O1_R9")
            >>> package = fxcache.load(fxcache.export(cached, "encoder.pt2", {"src": src}))
            >>> package.configure(max_continuous_cached_steps=None)
            >>> with torch.no_grad():
            ...     for step in range(6):
            ...         output = package(src)
            >>> package.stats()["default"].cached_steps
            (1, 2, 3, 4, 5)
        """
        config = self._reconfigured(config, **changes)
        self._contexts.finish()
        self.__dict__.update(cache_config=config)

    def _reconfigured(self, config: ConfigLike, **changes: Any) -> CacheConfig:
        if not any(SETTINGS.fullmatch(entry.name) for entry in self.manifest.state):
            self._refuse("be configured", "Its fxcache knew no such packages: export it again.")
        wanted = (self.cache_config if config is None else as_config(config)).replace(**changes)
        if wanted.follow:
            need = "needs graphs of its own for contexts that follow, and a package holds one: leave it out"
            raise GraphSettingError("follow", dict(wanted.followed), need)
        return reconfigured(self.cache_config, wanted, self.manifest.model)

    def use(self, plans: Plan | Sequence[Plan]) -> None:
        """Follow another plan, or several of which the timesteps choose, from the next trajectory on.

        The package stays as it is. Trajectories under way end.

        plans: of the level, Fn and Bn of the one that it was exported with, and of no more values.

        Raises:
            PlanError: the package was not made for such a plan.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> import fxcache
            >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
            >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
            >>> src, plan = torch.randn(3, 1, 8), fxcache.plan(steps=6, speedup=2)
            >>> cached = fxcache.transform(model, plan)
            >>> package = fxcache.load(fxcache.export(cached, "planned.pt2", {"src": src}))
            >>> package.use(fxcache.plan(steps=6, speedup=3))
            >>> with torch.no_grad():
            ...     for step in range(6):
            ...         output = package(src)
            >>> package.stats()["default"].cached_steps
            (1, 2, 3, 4)
        """
        config = replanned(self.cache_config, plans, self.manifest.model)
        self._contexts.finish()
        self.__dict__.update(cache_config=config)

    def _reset_stateful_cache(self, recurse: bool = True) -> None:
        # diffusers calls this when a pipeline is done; the record stays for `stats()`.
        self._contexts.finish()

    def stats(self) -> Stats:
        """What was cached in the last trajectory of each context. Waits for the device.

        FLOPs are known only for calls of the sizes of the example that was exported.
        """
        return self._contexts.stats()

    # ------------------------------------------------------------------ copies

    def __copy__(self) -> PackagedTransformer:
        copied = PackagedTransformer(self.manifest, self.run, self._contexts.limit, self._reload)
        copied.__dict__["cache_config"] = self.cache_config
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> PackagedTransformer:
        copied = memo[id(self)] = self.__copy__()
        copied.__setstate__(copy.deepcopy(self._hung(), memo))
        return copied

    def __reduce__(self) -> Any:
        if self._reload is None:
            self._refuse("be pickled", "It was not loaded from a file: fxcache.load() gives one that can.")
        return self._reload.func, self._reload.args, {**self._hung(), "cache_config": self.cache_config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __repr__(self) -> str:
        return f"PackagedTransformer({self.sealed}, {self.cache_config})"
