"""`CachedTransformer`: what the user holds, a stand-in for the model in a pipeline."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..capture.call_signature import Call
from ..capture.forward_inputs import Bound, ForwardInputs, ForwardWatch
from ..capture.rank_groups import AUTO
from ..capture.root_hooks import FORWARD, beneath, has_root_hooks, hooked
from ..capture.whole_parameters import class_of
from ..config import CacheConfig, ConfigLike, as_config
from ..environment.opaque_objects import tensors_within
from ..environment.refused_trace import RefusedTrace
from ..errors import (
    AlreadyCachedError,
    ArgumentsError,
    BackendError,
    CaptureError,
    ConfigError,
    FxcacheError,
    GradientWarning,
    NotCapturedError,
    OtherMethodWarning,
    PassthroughWarning,
    PeerFailedError,
    PeersError,
    ProcessesWarning,
    RecaptureWarning,
    TooManyCapturesError,
    TooManyContextsError,
    TrajectoryWarning,
)
from ..ir.ranks import Agree, RankGroup
from ..ir.settings import reconfigured, replanned
from ..plans import Plan
from ..policies import Follow
from ..torch_private import symbolic_trace
from .contexts import Contexts
from .foreign_tracers import REASON, refuse_compilation, refuse_tracing
from .graph_view import CachedGraph
from .module_proxy import ModuleProxy
from .other_caches import OtherCaches
from .peers import CACHED, GRADIENT, UNCACHED, Facts, Peers, Turn
from .sampling import Sampling
from .specialization import Lowering, Specialization, eager
from .specializations import MAX_CAPTURES, Specializations
from .stats import Stats
from .telling import warn, warn_absent
from .trainable import Trainable

UNKNOWN_PEERS = (
    "has collectives in its forward, and nothing in it says with which ranks: where they cache different "
    "steps they wait for each other for ever. Give transform(process_group=...)"
)
NO_TIMESTEP = "has no timestep input, so only its sample tells a new trajectory: call reset() between runs"


class _NeedsGradient(Exception):
    """A module that the model calls, and does not hold, has parameters to be trained."""


class CachedTransformer(ModuleProxy):
    """A model with its cache compiled in. Made by `fxcache.transform`.

    Calls, attributes, `config`, `dtype`, `device` and the state dict are the original's. The forward is
    captured on the first call of each kind (structure, constants, dtypes, devices, ranks); the original
    is left as it was and stays reachable as `original`. Its config is `cache_config`.

    Example:
        >>> import torch
        >>> import fxcache
        >>> from fxcache.embedded import example_inputs, load_transformer
        >>> cached = fxcache.transform(load_transformer(), "F1B0_W1M0MC1_T0O1_R9")
        >>> inputs = example_inputs(batch=1)
        >>> with torch.no_grad(), cached.cache_context("cond"):
        ...     for timestep in (1.0, 0.75, 0.5):
        ...         (output,) = cached(**{**inputs, "timestep": torch.tensor([timestep])})
        >>> output.shape  # [batch, tokens, channels]
        torch.Size([1, 49, 16])
        >>> cached.stats()["cond"].cached_steps
        (1,)
        >>> cached.reset()
        >>> cached.config.num_layers, cached.dtype, type(cached.original).__name__
        (4, torch.float32, 'FluxTransformer2DModel')
    """

    KEPT = ModuleProxy.KEPT | {
        "cache_config", "_options", "_forward", "_specializations", "_following", "_contexts",
        "_passthrough", "_told", "_met", "_trainable", "_warned", "_others", "_peers",
    }  # fmt: skip

    def __init__(
        self,
        original: nn.Module,
        config: CacheConfig,
        *,
        choose_lowering: Callable[..., Lowering],
        scope: str = "model",
        timestep: str | None = None,
        on_unsupported: str = "raise",
        max_contexts: int = 64,
        max_captures: int = MAX_CAPTURES,
        lower: Lowering = eager,
        process_group: Any = AUTO,
        agree: Agree = "parts",
        method: str = FORWARD,
        ignore: tuple[str, ...] = (),
        blocks: tuple[str, ...] = (),
    ) -> None:
        others = OtherCaches(original)
        if isinstance(config.policy, Follow):
            need = 'is for contexts: give CacheConfig(follow={"uncond": "cond"}) and the policy that decides'
            raise ConfigError("policy", config.policy, need)
        super().__init__(original)
        self._others = others
        self.cache_config = config
        self._options: dict[str, Any] = {
            "scope": scope,
            "timestep": timestep,
            "on_unsupported": on_unsupported,
            "max_contexts": max_contexts,
            "max_captures": max_captures,
            "lower": lower,
            "choose_lowering": choose_lowering,
            "process_group": process_group,
            "agree": agree,
            "method": method,
            "ignore": ignore,
            "blocks": blocks,
        }
        self._peers = Peers(original, process_group, agree, on_unsupported == "passthrough")
        self._forward = ForwardWatch(original, timestep, method, ignore)
        if method != FORWARD and hasattr(CachedTransformer, method):
            need = "a cached model has a method of its own by this name"
            raise ConfigError("method", method, need, of="fxcache.transform()")
        self._forget_specializations()
        self._contexts = Contexts(max_contexts)
        self._trainable = Trainable((original,))
        self._passthrough = on_unsupported == "passthrough"
        self._told: set[str] = set()
        self._met: set[str] = set()  # options to be ignored that were in a call, or missed in one
        self._warned: set[type] = set()

    # ------------------------------------------------------------------ the call

    @torch.compiler.disable(reason=REASON)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the original's forward: one step of the trajectory that the call continues.

        With gradients enabled, and anything that needs one, the original runs uncached. Where ranks decide
        together, they tell one another at each call what they make of it; what fails on one of them fails on
        all. Uncached, with one warning, where another method is the cached one (`transform(..., method=)`),
        which is then called by its name.

        Raises:
            CaptureError, NoBlocksError, TooManyBlocksError, BlockMutationError, OpaqueInputError,
            TooManyCapturesError, PeersError: this call cannot be served (with `on_unsupported="passthrough"`
            it runs uncached). TooManyContextsError: more contexts hold state than `max_contexts`.
            AlreadyCachedError, RootHookError, TracingError: somebody else's cache, hook or tracer is in the
            way.
        """
        if self._options["method"] != FORWARD:
            refuse_tracing()
            self._warn(OtherMethodWarning, f"runs uncached: what is cached is {self._options['method']}()")
            self._contexts.count_uncached()
            return self.original(*args, **kwargs)
        return self._serve(args, kwargs)

    @torch.compiler.disable(reason=REASON)
    def _serve(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """A call of the cached method."""
        refuse_tracing()
        if self._peers.changed():
            self._forget_specializations()
        with self._peers.turn() as turn:
            return self._call(turn, args, kwargs)

    def _call(self, turn: Turn, args: Any, kwargs: Mapping[str, Any]) -> Any:
        if not self._contexts.config(self.cache_config).enabled:
            return self._run_uncached(turn, UNCACHED, args, kwargs)
        if torch.is_grad_enabled() and self._needs_gradient(args, kwargs):
            return self._run_for_gradient(turn, args, kwargs)
        self._others.refuse()
        run: Callable[..., Any] = functools.partial(self._run, turn, self._as_given(args, kwargs))
        try:
            if has_root_hooks(self.original) and self._options["method"] == FORWARD:
                run = hooked(self.original, run)
            return run(*args, **kwargs)
        except (TooManyContextsError, PeerFailedError):
            raise
        except _NeedsGradient:
            return self._run_for_gradient(None, args, kwargs)
        except FxcacheError as error:
            wasted = isinstance(error, TooManyCapturesError)
            if not self._passthrough and (wasted or not isinstance(error, (ArgumentsError, CaptureError))):
                raise
            failure = error
        turn.tell(failure)
        alone = self._peers.groups and not isinstance(failure, ArgumentsError)  # others do not run it now
        if not self._passthrough and (alone or not _may_be_the_models(failure)):
            raise failure
        result = self._plain(*args, **kwargs)  # what the model itself rejects is its own error
        if isinstance(failure, ArgumentsError):  # a decorator takes what its signature does not say
            self._forward.inputs = self._inputs.accepting(args, kwargs)
        elif self._passthrough:
            self._contexts.count_uncached()
            self._tell_uncached(failure)
        else:
            raise failure
        return result

    @property
    def _plain(self) -> Callable[..., Any]:
        """What is cached, of the original."""
        method = self._options["method"]
        return self.original if method == FORWARD else getattr(self.original, method)  # type: ignore[no-any-return]

    @property
    def captured_as(self) -> dict[str, Any]:
        """What `transform` was told of how the model is entered and captured, for another of the same.

        Example:
            >>> import fxcache
            >>> from fxcache.embedded import load_transformer
            >>> cached = fxcache.transform(load_transformer(), "F1B0_W4M0MC3_T1O1_R0.12", scope="list")
            >>> cached.captured_as["scope"], cached.captured_as["method"]
            ('list', 'forward')
        """
        names = ("scope", "timestep", "process_group", "agree", "method", "ignore", "blocks")
        return {name: self._options[name] for name in names}

    @property
    def _inputs(self) -> ForwardInputs:
        return self._forward.inputs

    def _forget_specializations(self) -> None:
        self._specializations = self._no_specializations(self.cache_config)
        self._following: Specializations | None = None

    def _serving(self, config: CacheConfig) -> Specializations:
        """Those whose graphs `config` needs: contexts that follow others share graphs of their own."""
        if not isinstance(config.policy, Follow):
            return self._specializations
        if self._following is None:
            self._following = self._no_specializations(config)
        return self._following

    def specializations(self) -> list[Specialization]:
        """All transformed graphs: those of contexts that decide, and then those of contexts that follow.

        Example:
            >>> import fxcache
            >>> from fxcache.embedded import load_transformer
            >>> fxcache.transform(load_transformer(), "F1B0_W4M0MC3_T1O1_R0.12").specializations()
            []
        """
        return [s for group in self._groups() for s in group.all()]

    def _groups(self) -> list[Specializations]:
        return [g for g in (self._specializations, self._following) if g is not None]

    def _no_specializations(self, config: CacheConfig) -> Specializations:
        options = self._options
        return Specializations(
            self.original,
            config,
            options["scope"],
            self._inputs,
            options["lower"],
            options["max_captures"],
            remember=options["on_unsupported"] == "passthrough",
            groups=self._peers.look_again,
            blocks=options["blocks"],
        )

    def _as_given(self, args: Any, kwargs: Mapping[str, Any]) -> Call | None:
        """The call before hooks on the model split it among ranks; None where there is but one."""
        if not self._peers.groups:
            return None
        serving = self._serving(self._contexts.config(self.cache_config))
        try:
            return serving.flatten(self._inputs.bind(args, kwargs, serving.flexible))[0]
        except FxcacheError:  # whatever is wrong with it, the call itself raises it
            return None

    def _run(self, turn: Turn, given: Call | None, /, *args: Any, **kwargs: Any) -> Any:
        if self._forward.replaced():
            self._forget_specializations()
        config = self._contexts.config(self.cache_config)
        serving = self._serving(config)

        def find() -> tuple[Specialization, Call]:
            if self._peers.groups:
                self._contexts.current()  # too many are an error before the others wait in the graph
            bound = self._inputs.bind(args, kwargs, serving.flexible)
            if self._inputs.ignored:
                self._tell_absent(bound)
            return serving.of(*serving.flatten(bound))

        specialization, call = turn.settle(find, _told)
        if torch.is_grad_enabled() and specialization.trainable:
            raise _NeedsGradient
        flat = self._step(specialization, call, config, given)
        return specialization.program.capture.finish(flat)

    def _tell_absent(self, bound: Bound) -> None:
        """Warn of options to be ignored that no call had so far."""
        for path in self._options["ignore"]:
            if path not in self._met and path in bound.absent:
                warn_absent(type(self.original).__name__, path, bound.absent[path])
            self._met.add(path)

    def prepare(self, example_inputs: Mapping[str, Any]) -> None:
        """Capture and transform for calls like `example_inputs`, as the first of them would.

        What it runs is what `fxcache.explain` does for its graph: the forward once on fake tensors, as a
        rule; on real copies of the inputs where the model's code reads values of tensors. No step is run or
        counted, no state allocated, no FLOPs counted; a compiler runs in the first steps. Does nothing where
        such a call was captured before, or the config has no cache. Contexts that follow another have graphs
        of their own: prepare those within their `cache_context`.

        Raises:
            CaptureError, NoBlocksError, TooManyBlocksError, BlockMutationError, OpaqueInputError: such a
            call cannot be served (with `on_unsupported="passthrough"` this warns).

        Example:
            >>> import torch
            >>> from torch import nn
            >>> import fxcache
            >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
            >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
            >>> cached = fxcache.transform(model, "F1B0_W4M0MC3_T1O1_R0.12")
            >>> cached.prepare({"src": torch.randn(3, 1, 8)})
            >>> print(cached.stats())
            no step was run
            >>> print(cached.graph)
            def cached(src: f32[s0, 1, 8], state):
            ...
        """
        if not self.cache_config.enabled:
            return
        try:
            self.specialization_for(example_inputs)
        except FxcacheError as error:
            if not self._passthrough:
                raise
            self._tell_uncached(error)

    def specialization_for(
        self, example_inputs: Mapping[str, Any], numbers: bool = True
    ) -> tuple[Specialization, Call]:
        """The transformed graph that serves a call with `example_inputs`, and that call, flattened.

        Captures where there is none; runs and raises what `prepare` does, but never passes through.

        numbers: whether it may be one that takes numbers as inputs; else they are its constants.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> import fxcache
            >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
            >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
            >>> cached = fxcache.transform(model, "F1B0_W4M0MC3_T1O1_R0.12")
            >>> specialization, call = cached.specialization_for({"src": torch.randn(3, 1, 8)})
            >>> [t.shape for t in call.tensors], specialization.segments
            ([torch.Size([3, 1, 8])], 1)
        """
        serving = self._serving(self._contexts.config(self.cache_config))

        def found(*args: Any, **kwargs: Any) -> tuple[Specialization, Call]:
            bound = self._inputs.bind(args, kwargs, numbers and serving.flexible)
            return serving.of(*serving.flatten(bound, numbers), numbers)

        def find() -> tuple[Specialization, Call]:
            hooks = has_root_hooks(self.original) and self._options["method"] == FORWARD
            if self._peers.groups and hooks:  # which split the inputs, or gather weights
                return beneath(self.original, found, (), example_inputs)
            return found(**example_inputs)

        if self._peers.changed():
            self._forget_specializations()
        with self._peers.turn() as turn:
            return turn.settle(find, _told)

    def _step(
        self, specialization: Specialization, call: Call, config: CacheConfig, given: Call | None
    ) -> tuple[Any, ...]:
        program = specialization.program
        if program.timestep is None:
            self._warn(TrajectoryWarning, NO_TIMESTEP)
        if program.capture.communicates and self._peers.unknown:
            self._warn(ProcessesWarning, UNKNOWN_PEERS)
        return self._contexts.step(specialization, call, config, given)

    def _tell_uncached(self, error: FxcacheError) -> None:
        """Say, once for each reason, that calls of a kind run uncached."""
        error.__traceback__ = None  # it may be kept, and would keep the call's tensors
        if str(error) in self._told:
            return
        self._told.add(str(error))
        message = f"{type(self.original).__name__} runs uncached: {error}"
        kind = RecaptureWarning if isinstance(error, TooManyCapturesError) else PassthroughWarning
        warn(message, kind)

    def _run_for_gradient(self, turn: Turn | None, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """The original. turn: None where the ranks have told one another."""
        self._warn(GradientWarning, "called with gradients enabled: it runs uncached")
        if turn is None:
            return self.original(*args, **kwargs)
        return self._run_uncached(turn, GRADIENT, args, kwargs)

    def _run_uncached(self, turn: Turn, why: str, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """The original, if the other ranks run it, too."""
        if why == UNCACHED:
            self._contexts.count_uncached()
        try:
            turn.settle(lambda: None, lambda _: (why, {}))
        except PeersError as error:
            if not self._passthrough:
                raise
            self._tell_uncached(error)
        return self._plain(*args, **kwargs)

    def _needs_gradient(self, args: Any, kwargs: Mapping[str, Any]) -> bool:
        given = (t for v in (*args, *kwargs.values()) for t in tensors_within(v))
        return any(t.requires_grad for t in given) or bool(self._trainable)

    def _warn(self, kind: type[Warning], what: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warn(f"{type(self.original).__name__} {what}", kind)

    # ------------------------------------------------------------------ contexts

    def cache_context(
        self, name: str, config: ConfigLike = None, **information: Any
    ) -> AbstractContextManager[None]:
        """Within the block, calls use the state `name` (diffusers wraps cond and uncond passes so).

        Where an exception leaves the block, the runs of what was called in it end: a request that is
        cancelled leaves no state behind.

        config: settings that hold within the block, and in contexts that are entered within it, so that a
            pipeline may be called in it; None for those around it. For what graph: see `configure`.
        information: what diffusers says besides. `step_index` and `num_inference_steps` are used where the
            settings speak of the end of a run (`last_compute_steps`, `end_percent`).

        Raises:
            GraphSettingError, PlanError: these settings need another graph.

        Example:
            >>> import torch
            >>> import fxcache
            >>> from fxcache.embedded import example_inputs, load_transformer
            >>> cached = fxcache.transform(load_transformer(), "F1B0_W1M0MC0_T0O1_R9")
            >>> inputs = example_inputs(batch=1)
            >>> for name, config in (("mine", None), ("yours", "F1B0_W3M0MC0_T0O1_R9")):
            ...     with torch.no_grad(), cached.cache_context(name, config):
            ...         for timestep in (1.0, 0.75, 0.5, 0.25):
            ...             (output,) = cached(**{**inputs, "timestep": torch.tensor([timestep])})
            >>> cached.stats()["mine"].cached_steps, cached.stats()["yours"].cached_steps
            ((1, 2, 3), (3,))
        """
        own = None if config is None else self._reconfigured(config)
        return self._contexts.within(name, own, Sampling.of(information))

    def enable_cache(self, config: Any) -> None:
        """Refused: diffusers' own caches and this one would skip each other's blocks.

        Example:
            >>> import fxcache
            >>> from fxcache.embedded import load_transformer
            >>> fxcache.transform(load_transformer(), "F1B0_W4M0MC3_T1O1_R0.12").enable_cache(config=None)
            Traceback (most recent call last):
            fxcache.errors.AlreadyCachedError: FluxTransformer2DModel would have two caches, ...
        """
        if isinstance(config, CacheConfig):
            need = "this model is cached already: give it to configure(), or to fxcache.transform()"
            raise ConfigError("config", str(config), need, of="enable_cache()")
        raise AlreadyCachedError(type(self.original).__name__, "one of diffusers' (enable_cache)")

    def reset(self, context: str | None = None) -> None:
        """Forget all states: the next call of every context starts a new trajectory.

        Kinds of calls that were refused are tried again.

        context: forget this one alone, whichever thread it is of: a request is done, or was cancelled, while
            others are under way.

        Example:
            >>> import torch
            >>> import fxcache
            >>> from fxcache.embedded import example_inputs, load_transformer
            >>> cached = fxcache.transform(load_transformer(), "F1B0_W1M0MC0_T0O1_R9")
            >>> for name in ("request-7", "request-8"):
            ...     with torch.no_grad(), cached.cache_context(name):
            ...         (output,) = cached(**example_inputs(batch=1))
            >>> cached.reset("request-7")
            >>> list(cached.stats().contexts)
            ['request-8']
        """
        self._contexts.reset(context)
        if context is not None:
            return
        for group in self._groups():
            group.forgive()
        self._told.clear()

    def configure(self, config: ConfigLike = None, **changes: Any) -> None:
        """Cache by other settings from here on: thresholds, warmup, limits, steps mask, plans, on and off.

        They are state: no graph is captured or compiled anew. Trajectories under way end; what `stats()`
        says of them is forgotten where the cache is switched off.

        config: all settings, as `transform` takes them; None for those in force. changes: fields of these to
            change. What is part of the graph (Fn, Bn, the level, the forecaster, feedback, batch) stays.
            Contexts that begin to `follow` have a graph of their own, captured by their first call.

        Raises:
            GraphSettingError, PlanError: these settings need another graph. And what building a config does.

        Example:
            >>> import fxcache
            >>> from fxcache.embedded import load_transformer
            >>> cached = fxcache.transform(load_transformer(), "F1B0_W4M0MC3_T1O1_R0.12")
            >>> cached.configure(residual_diff_threshold=0.2)
            >>> cached.configure("F1B0_W2M0MC4_T1O1_R0.3")
            >>> print(cached.cache_config)
            F1B0_W2M0MC4_T1O1_R0.3
            >>> cached.configure(fn_compute_blocks=2)
            Traceback (most recent call last):
            fxcache.errors.GraphSettingError: CacheConfig.fn_compute_blocks = 2: is part of the graph, ...
        """
        self.cache_config = self._reconfigured(config, **changes)
        if not self._specializations.config.enabled:  # nothing was made with a cache yet
            self._forget_specializations()
        if self.cache_config.enabled:
            self._contexts.finish()
        else:
            self._contexts.reset()  # the steps that come leave no record that would take the place

    def _reconfigured(self, config: ConfigLike, **changes: Any) -> CacheConfig:
        wanted = (self.cache_config if config is None else as_config(config)).replace(**changes)
        if not self._specializations.config.enabled:
            return wanted
        return reconfigured(self.cache_config, wanted, class_of(self.original).__name__)

    def use(self, plans: Plan | Sequence[Plan]) -> None:
        """Follow another plan, or several of which the timesteps choose, from the next trajectory on.

        No graph is captured or compiled anew. Trajectories under way end.

        plans: of the level, Fn and Bn of the one that the model was transformed with, and of no more values.

        Raises:
            PlanError: the graph was not made for such a plan.

        Example:
            >>> import fxcache
            >>> from fxcache.embedded import load_transformer
            >>> plan = fxcache.Plan(steps=2, computed=(0,), weights=((1, 0), (0, 1)))
            >>> cached = fxcache.transform(load_transformer(), plan)
            >>> cached.use([plan, plan.replace(steps=3, weights=((1, 0), (0, 1), (0, 1)))])
            >>> print(cached.cache_config)
            P2K1_...+P3K1_...
        """
        self.cache_config = replanned(self.cache_config, plans, class_of(self.original).__name__)
        self._contexts.finish()

    def _reset_stateful_cache(self, recurse: bool = True) -> None:
        # diffusers calls this when a pipeline is done; the record stays for `stats()`.
        self._contexts.finish()

    # ------------------------------------------------------------------ what happened

    def stats(self) -> Stats:
        """What was cached in the last trajectory of each context. Reads the device; do not call it in
        the sampling loop where that matters."""
        return replace(self._contexts.stats(), processes=self.processes)

    @property
    def processes(self) -> tuple[RankGroup, ...]:
        """The groups of ranks that decide together with this process, as of the last call; often none.

        Example:
            >>> import fxcache
            >>> from fxcache.embedded import load_transformer
            >>> fxcache.transform(load_transformer(), "F1B0_W4M0MC3_T1O1_R0.12").processes
            ()
        """
        return self._peers.groups

    @property
    def graph(self) -> CachedGraph:
        """The graph of the first captured kind of call: `print` it, or draw it with `show()`.

        Raises:
            NotCapturedError: before the first call, or `prepare`.

        Example:
            >>> import fxcache
            >>> from fxcache.embedded import load_transformer
            >>> fxcache.transform(load_transformer(), "F1B0_W4M0MC3_T1O1_R0.12").graph
            Traceback (most recent call last):
            fxcache.errors.NotCapturedError: no call was captured yet: ...
        """
        specializations = self._specializations.all()
        if not specializations:
            raise NotCapturedError
        program = specializations[0].program.replace(config=self.cache_config)
        return CachedGraph(program, specializations[0].measure)

    # ------------------------------------------------------------------ copies

    def lowered(self, lower: Lowering) -> CachedTransformer:
        """The same model and config, its graphs run by another backend; contexts start empty.

        lower: from a `Program` to a callable that takes the flat inputs and the state and returns the flat
            outputs.

        Example:
            >>> import fxcache
            >>> from fxcache.embedded import load_transformer
            >>> cached = fxcache.transform(load_transformer(), "F1B0_W4M0MC3_T1O1_R0.12")
            >>> plain = cached.lowered(lambda program: program.graph.forward)
            >>> plain.original is cached.original
            True
        """
        lowered = CachedTransformer(self.original, self.cache_config, **{**self._options, "lower": lower})
        hooks = (h for table in self._hung().values() if isinstance(table, dict) for h in table.values())
        kept = (self.original, self.__dict__.get("_hf_hook"), *hooks)
        lowered._hang_like(self, {id(k): k for k in kept})
        return lowered

    def compile(self, **options: Any) -> None:  # type: ignore[override]
        """As `fxcache.compile`, in place: contexts start empty. Not for TensorRT.

        Example:
            >>> import fxcache
            >>> from fxcache.embedded import load_transformer
            >>> cached = fxcache.transform(load_transformer(), "F1B0_W4M0MC3_T1O1_R0.12")
            >>> cached.compile(mode="staged")  # the first steps compile
            >>> cached.compile(backend="tensorrt")
            Traceback (most recent call last):
            fxcache.errors.BackendError: backend="tensorrt" must be given to fxcache.compile(), ...
        """
        backend = options.pop("backend", "inductor")
        mode, dynamic = options.pop("mode", None), options.pop("dynamic", None)
        if backend == "tensorrt":
            raise BackendError(
                'backend="tensorrt"', "be given to fxcache.compile(), which makes a model of its own"
            )
        self._options["lower"] = self._options["choose_lowering"](backend, mode, dynamic, options)
        self._forget_specializations()
        self.reset()

    def compile_repeated_blocks(self, **options: Any) -> None:
        """As `compile`, with each class of blocks compiled once.

        Example:
            >>> import fxcache
            >>> from fxcache.embedded import load_transformer
            >>> cached = fxcache.transform(load_transformer(), "F1B0_W4M0MC3_T1O1_R0.12")
            >>> cached.compile_repeated_blocks()  # the first steps compile
        """
        self.compile(**{**options, "mode": "staged"})

    def __getattr__(self, name: str) -> Any:
        refuse_compilation(name)
        if name == self.__dict__.get("_options", {}).get("method"):
            return self._entry(name)
        return super().__getattr__(name)

    def _entry(self, name: str) -> Callable[..., Any]:
        """The cached method, in the place of the original's."""

        def entry(*args: Any, **kwargs: Any) -> Any:
            return self._serve(args, kwargs)

        return functools.update_wrapper(entry, getattr(self.original, name))

    @property
    def _entries(self) -> frozenset[str]:
        return super()._entries | {self._options["method"]}

    def _get_name(self) -> str:
        if symbolic_trace.is_fx_symbolic_tracing():  # `torch.fx.symbolic_trace` asks before it calls
            refuse_tracing()
        return type(self.original).__name__

    def __copy__(self) -> CachedTransformer:
        return CachedTransformer(copy.copy(self.original), self.cache_config, **self._options)

    def __deepcopy__(self, memo: dict[int, Any]) -> CachedTransformer:
        copied = CachedTransformer(copy.deepcopy(self.original, memo), self.cache_config, **self._options)
        copied._hang_like(self, memo)
        return copied

    def __reduce__(self) -> Any:
        return _rebuild, (self.original, self.cache_config, self._options), self._hung() or None

    def __repr__(self) -> str:
        return f"CachedTransformer({type(self.original).__name__}, {self.cache_config})"


def _told(found: tuple[Specialization, Call]) -> tuple[str, Facts]:
    """What a rank that found this tells the others."""
    specialization, _ = found
    if torch.is_grad_enabled() and specialization.trainable:
        return GRADIENT, {}
    return CACHED, specialization.facts


def _may_be_the_models(failure: FxcacheError) -> bool:
    """Whether the plain model may raise an error of its own; else it is not run, as running may write."""
    if isinstance(failure, CaptureError):
        cause = failure.__cause__
        return cause is not None and not isinstance(cause, (RefusedTrace, FxcacheError))
    return True


def _rebuild(original: nn.Module, config: CacheConfig, options: dict[str, Any]) -> CachedTransformer:
    return CachedTransformer(original, config, **options)
