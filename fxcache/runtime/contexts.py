"""Contexts: the trajectories of each caller of a transformed model, or of a loaded package."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch

from ..capture.call_signature import Call
from ..config import CacheConfig
from ..errors import IdleCacheWarning
from ..ir.host_reads import waits
from ..ops.known_decision import knowing
from .context import Context
from .following import leader_of, tell_follower
from .idle import LEAST_STEPS, LONE, why_idle
from .per_caller import PerCaller
from .sampling import Sampling
from .served_graph import Served
from .stats import ContextStats, SegmentStats, Stats, context_stats
from .trajectory_state import TrajectoryState


class Contexts(PerCaller[Context]):
    """All contexts of one transformed model, and which one is current.

    limit: how many contexts may hold state at once.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit, Context)
        self._config: ContextVar[CacheConfig | None] = ContextVar("fxcache_config", default=None)
        self._sampling: ContextVar[Sampling | None] = ContextVar("fxcache_sampling", default=None)
        self._called: ContextVar[tuple[list[Context], ...]] = ContextVar("fxcache_called", default=())
        self._told_idle = False

    def step(
        self, graph: Served, call: Call, config: CacheConfig, given: Call | None = None
    ) -> tuple[Any, ...]:
        """Run `call` with the state that it continues, in this thread and the enclosing `named` block.

        given: the call as it was made, where what reaches the graph is this rank's part of it: all ranks must
            find the same run.

        Raises `TooManyContextsError` where that would be one context more than the limit.
        """
        context = self.current()
        for called in self._called.get():
            if context not in called:
                called.append(context)
        state = context.find(graph, as_told_by(call, given), config)
        if context.ended or context.alone >= LEAST_STEPS:
            self._look_at(context)
        with torch.no_grad() if torch.is_grad_enabled() else contextlib.nullcontext():
            return self._advance(state, graph, call, config)

    def config(self, default: CacheConfig) -> CacheConfig:
        """The settings of the enclosing blocks; `default` where none has any. Of a follower its own."""
        config, sampling = (self._config.get() or default).for_context(self.name), self._sampling.get()
        if sampling is None or not config.needs_steps:
            return config
        return sampling.settings(config, first=self.current().first_step(sampling))

    @contextlib.contextmanager
    def within(self, name: str, config: CacheConfig | None, sampling: Sampling | None) -> Iterator[None]:
        """As `named`; with settings that hold in the block, and in those within it that have none.

        The runs of what was called in it end where the block is left by an exception: a cancelled request
        must hold no memory, nor be taken for the beginning of another.

        sampling: what the sampler says of the step.
        """
        called: list[Context] = []
        with contextlib.ExitStack() as stack:
            stack.push(functools.partial(_finish_broken_off, called))
            stack.callback(self._called.reset, self._called.set((*self._called.get(), called)))
            stack.enter_context(self.named(name))
            if config is not None:
                stack.callback(self._config.reset, self._config.set(config))
            if sampling is not None:
                stack.callback(self._sampling.reset, self._sampling.set(sampling))
            yield

    def _look_at(self, context: Context) -> None:
        """Warn, once, of runs that were over without a hit."""
        ended, context.ended = context.ended, []
        reasons = [_why_idle(state) for state in ended if not self._told_idle]
        if context.alone >= LEAST_STEPS:
            reasons.append(LONE)
        self._tell_idle(next(filter(None, reasons), None))

    def _tell_idle(self, reason: str | None) -> None:
        if reason is not None and not self._told_idle:
            self._told_idle = True
            warnings.warn(
                f"A run had no hit, so that nothing was saved: {reason}.", IdleCacheWarning, stacklevel=5
            )

    def _advance(
        self, state: TrajectoryState, graph: Served, call: Call, config: CacheConfig
    ) -> tuple[Any, ...]:
        tensors = state.tensors(graph, call, config)
        try:
            self._tell(state, graph, call, config)
            if not config.plans or not graph.asks_host or not waits(tensors[0].device):
                return graph.run(*call.tensors, *tensors)
            time = graph.roles.time
            timestep = None if time is None else call.tensors[time]
            with knowing(state.host.decision(config.plans, state.state, timestep)):
                return graph.run(*call.tensors, *tensors)
        except BaseException:
            state.forget()  # a half-made step must leave nothing that a later one could use
            raise

    def _tell(self, state: TrajectoryState, graph: Served, call: Call, config: CacheConfig) -> None:
        """Where the current context follows another, tell it what that one did."""
        leader = leader_of(config)
        if leader is None:
            return
        context = self.of(leader)
        sample = graph.roles.sample
        leaders = [s.state for s in context.states()] if context is not None else []
        tell_follower(state.state, None if sample is None else call.tensors[sample], leaders)

    def last_state(self) -> TrajectoryState:
        """State of the last call in this thread and the enclosing `named` block."""
        return self.current().last_state()

    def count_uncached(self) -> None:
        """A step of the current context ran without the cache."""
        self.current().uncached_steps += 1

    def items(self) -> list[tuple[str, TrajectoryState]]:
        """(label, state) of every trajectory.

        The trajectory of a context's last call has the context's name, those called before it `name/2`
        and so on.
        """
        labelled: list[tuple[str, TrajectoryState]] = []
        for label, context in self.entries():
            states = context.states()
            if not states and context.uncached_steps:
                states = [TrajectoryState(uncached_steps=context.uncached_steps)]
            for i, state in enumerate(states):
                labelled.append((label if i == 0 else f"{label}/{i + 1}", state))
        return labelled

    def stats(self) -> Stats:
        """What was cached in the last trajectory of each context."""
        states = self.items()
        for _, state in states:
            self._tell_idle(_why_idle(state))
        return Stats({name: _stats_of(state) for name, state in states})


def _finish_broken_off(called: Sequence[Context], kind: type[BaseException] | None, *_: object) -> None:
    if kind is not None:
        for context in called:
            context.finish()


def as_told_by(call: Call, given: Call | None) -> Call:
    """`call`, with the tensors that were given in place of those that hooks made of them."""
    if given is None or len(given.tensors) != len(call.tensors):
        return call
    return replace(call, tensors=given.tensors)


def _why_idle(state: TrajectoryState) -> str | None:
    """Why its run had no hit, by the settings that it had; None where they were those of no cache."""
    return None if state.config is None else why_idle(_stats_of(state), state.config)


def _stats_of(state: TrajectoryState) -> ContextStats:
    if state.graph is None:
        return ContextStats((SegmentStats((False,) * state.uncached_steps, {}),), None, None, 0)
    return context_stats(state.state, state.graph.segments, state.flops_counter(), state.leader)
