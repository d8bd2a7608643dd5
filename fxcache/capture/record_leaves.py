"""Record the calls of whole modules, each as one node of a traced graph.

While a model's forward is traced, each leaf module's call is routed to one operator, `leaf_call`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..environment.ambient_settings import Ambient, Change, changes, entered, snapshot
from ..environment.executed_code import ExecutedCode
from ..environment.fingerprint import Content, Fingerprint, fingerprint
from ..environment.module_mutations import WriteWatch
from ..environment.opaque_objects import is_opaque, tensors_within
from ..environment.refused_trace import RefusedTrace
from ..environment.structure import Structure
from ..environment.values import UntellableError
from ..errors import BlockMutationError
from ..torch_private import FakeTensor, get_proxy_mode, get_proxy_slot
from . import trace_lock as tracelock
from .fake_memo import call_key
from .glue_watch import GlueWatch
from .leaf_call import leaf_call, traces
from .operand_writes import LeafWrites, copied, disjoint
from .operator_schemas import storage_of
from .value_reads import AnyRead, MemoryReads


class LeafReadsError(Exception):
    """A leaf that is no block reads tensor values: its sizes and numbers may depend on them."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"'{name}' reads tensor values")


@dataclass(frozen=True)
class Outcome:
    """What a leaf call came to: the same for like blocks given like arguments.

    outputs: the structure of what it returned. written: the operands that it writes to. same: for each
    output that is one of the operands, which. shared: outputs that share memory with something else.
    drew: whether it took random numbers. communicates: whether other processes took part.
    """

    outputs: Structure
    written: tuple[int, ...] = ()
    same: Mapping[int, int] = field(default_factory=dict)
    shared: tuple[int, ...] = ()
    drew: bool = False
    communicates: bool = False


@dataclass
class LeafRecord:
    """One recorded call: which module, with what argument structure, under what settings, and what came."""

    name: str
    module: nn.Module
    arguments: Structure
    ambient: Ambient
    changed: tuple[Change, ...] = ()
    outcome: Outcome | None = None

    @property
    def outputs(self) -> Structure:
        """The structure of what it returned."""
        assert self.outcome is not None
        return self.outcome.outputs


@dataclass
class Recording:
    """The leaf calls of one trace, in call order.

    watched: leaves to refuse when they read tensor values. A trace on fake tensors needs none: there
    a read fails by itself. glue: watches what runs between leaves. writes, code: told when a leaf runs, whose
    doings are its own affair. aliasing: a leaf that gives back its
    very input gives the forward that tensor, so that what is written to one is written to the other.
    """

    leaves: Mapping[str, nn.Module]
    glue: GlueWatch
    writes: WriteWatch
    code: ExecutedCode
    watched: frozenset[str] = frozenset()
    aliasing: bool = False
    calls: list[LeafRecord] = field(default_factory=list)
    described: dict[Any, tuple[Outcome, tuple[Any, ...]]] = field(default_factory=dict)
    thread: int = field(default_factory=threading.get_ident)

    def call(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        with self.code.paused():
            return self._recorded(name, module, args, kwargs)

    def _recorded(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        arguments, operands = Structure.of((args, kwargs), fields=True)
        for constant in arguments.held():
            if is_opaque(constant) and any(map(is_traced, tensors_within(constant))):
                kind = type(constant).__name__
                raise RefusedTrace(f"'{name}' is given a {kind} that the forward makes of its inputs")
        self.writes.called(name, module)
        self.glue.weights.called(name, module)
        now = snapshot()
        record = LeafRecord(name, module, arguments, now, changes(self.glue.ambient, now))
        self.calls.append(record)
        results = leaf_call(len(self.calls) - 1, *operands)
        self.writes.ran(module)
        self.glue.weights.ran(module)
        return record.outputs.fill(self._settled(record, operands, list(results)))

    def _settled(self, record: LeafRecord, operands: list[Any], results: list[Any]) -> list[Any]:
        """The outputs as the forward is to see them: what was written is written to the operands."""
        outcome = record.outcome
        assert outcome is not None
        count = len(results) - len(outcome.written)
        for place, value in zip(outcome.written, results[count:], strict=True):
            operands[place].copy_(value)
        for output, place in outcome.same.items():
            if place not in outcome.written:
                if not self.aliasing:
                    self.glue.detach(results[output], retry=True)
                    self.glue.detach(operands[place], retry=True)
                    continue
                operands[place].copy_(results[output])
            results[output] = operands[place]
        for output in outcome.shared:
            self.glue.detach(results[output], retry=False)
            for operand in operands:
                if isinstance(operand, torch.Tensor):
                    self.glue.detach(operand, retry=False)
        return results[:count]

    def describe(self, index: int, operands: tuple[Any, ...]) -> tuple[Any, ...]:
        """`run`, on fake tensors: repeated blocks given like arguments return like results."""
        record = self.calls[index]
        key = call_key(record.module, record.arguments, operands)
        if key is None:
            return self.run(index, operands)
        key = (key, record.changed)
        if key not in self.described:
            results = self.run(index, operands)
            assert record.outcome is not None
            self.described[key] = (record.outcome, results)
            return results
        record.outcome, results = self.described[key]
        return tuple(_another(r) for r in results)

    def run(self, index: int, operands: tuple[Any, ...]) -> tuple[Any, ...]:
        """Run the recorded module and return its dynamic outputs, flat, then what it wrote.

        The operands are left as they were.
        """
        record = self.calls[index]
        objects = [c for c in record.arguments.held() if is_opaque(c)]
        before_call = _state_of(record.name, objects)
        args, kwargs = record.arguments.fill(operands)
        watch = LeafWrites(record.name, record.module, operands, objects, self.glue.memory)
        real = [(i, o, Content(o)) for i, o in enumerate(operands) if is_real(o)]
        with self.glue.paused(), entered(record.changed), watch:
            result = self._result(record, args, kwargs)
        if self.glue.pure and watch.wrote:
            raise RefusedTrace(f"'{record.name}' writes in place, and its forward uses symbolic amounts")
        if any(i not in watch.before and Content(o) != before for i, o, before in real):
            raise BlockMutationError(record.name, "writes to its inputs past torch (through numpy?)")
        if _state_of(record.name, objects) != before_call:
            raise BlockMutationError(record.name, "writes to an object passed to it (a KV cache?)")
        outputs, results = Structure.of(result, fields=True)
        for constant in outputs.held():
            if is_opaque(constant) and tensors_within(constant):
                raise RefusedTrace(f"'{record.name}' returns a {type(constant).__name__} of tensors")
        record.outcome = _outcome(outputs, results, watch)
        return (*_unaliased(results, operands, watch), *_taken_back(operands, watch))

    def _result(self, record: LeafRecord, args: Any, kwargs: Any) -> Any:
        # `_call_impl`, not `__call__`: the latter is what is being recorded.
        forward = record.module._call_impl
        if record.name not in self.watched:
            return forward(*args, **kwargs)
        watch = AnyRead()
        with watch, MemoryReads(watch):
            result = forward(*args, **kwargs)
        if watch.happened:
            raise LeafReadsError(record.name)
        return result


def _state_of(name: str, objects: list[Any]) -> Fingerprint:
    """What a leaf is given; writes to tensors are seen otherwise."""
    try:
        return fingerprint(objects, contents=False)
    except UntellableError as error:
        what = f"'{name}' is given a {error.kind}, which cannot be checked for changes"
        raise RefusedTrace(what) from error


def is_real(operand: Any) -> bool:
    """Whether it is a tensor with memory that something else than torch may write to."""
    return (
        isinstance(operand, torch.Tensor)
        and not isinstance(operand, FakeTensor)
        and operand.layout == torch.strided
    )


def is_traced(tensor: torch.Tensor) -> bool:
    """Whether the trace under way computes `tensor`."""
    mode = get_proxy_mode()
    return mode is not None and get_proxy_slot(tensor, mode.tracer, None) is not None


def _another(result: Any) -> Any:
    """A fake tensor like `result`, or the same symbolic number."""
    if not isinstance(result, torch.Tensor):
        return result
    return torch.empty_strided(result.shape, result.stride(), dtype=result.dtype, device=result.device)


def _outcome(outputs: Structure, results: list[Any], watch: LeafWrites) -> Outcome:
    same: dict[int, int] = {}
    shared: list[int] = []
    for i, result in enumerate(results):
        if not isinstance(result, torch.Tensor):
            continue
        source = watch.operand_of(result)
        if source is not None and source[1]:
            same[i] = source[0]
        elif source is not None or not watch.made(result) or _overlaps(i, results):
            shared.append(i)
    return Outcome(outputs, tuple(sorted(watch.before)), same, tuple(shared), watch.drew, watch.communicates)


def _overlaps(index: int, results: list[Any]) -> bool:
    """Whether a result has elements in common with another."""
    one = results[index]
    others = (r for i, r in enumerate(results) if i != index and isinstance(r, torch.Tensor))
    return any(storage_of(o) == storage_of(one) and not disjoint(o, one) for o in others)


def _unaliased(results: list[Any], operands: tuple[Any, ...], watch: LeafWrites) -> Iterator[Any]:
    """An operator may not return one of its operands: a module that does gets a fresh tensor.

    So does one that gives a view of an operand that it wrote to, which is about to be taken back.
    """
    inputs = {id(o) for o in operands if isinstance(o, torch.Tensor)}
    written = {storage_of(operands[i]) for i in watch.before}
    seen: set[int] = set()
    for result in results:
        if isinstance(result, torch.Tensor):
            fresh = id(result) in inputs | seen or (written and storage_of(result) in written)
            yield result.clone() if fresh else result
            seen.add(id(result))
        else:
            yield result


def _taken_back(operands: tuple[Any, ...], watch: LeafWrites) -> list[torch.Tensor]:
    """What the written operands hold now; they hold again what they did before."""
    news: list[torch.Tensor] = []
    for place in sorted(watch.before):
        news.append(copied(operands[place]))
        operands[place].copy_(watch.before[place])
    return news


@contextlib.contextmanager
def recording(
    leaves: Mapping[str, nn.Module],
    glue: GlueWatch,
    writes: WriteWatch,
    code: ExecutedCode,
    watched: frozenset[str] = frozenset(),
    aliasing: bool = False,
    root: nn.Module | None = None,
) -> Iterator[Recording]:
    """Within the block, a call of any module of `leaves` is recorded as one `leaf_call`.

    Only the instance attribute that `nn.Module.compile` uses is set, and put back afterwards: hooks,
    offloading wrappers and compiled blocks stay inside the leaf. Other threads that call a leaf or the root
    meanwhile wait until the trace is over.
    """
    session = Recording(leaves, glue, writes, code, watched, aliasing)
    replaced = dict(leaves) if root is None else {"": root, **leaves}
    saved = {name: module._compiled_call_impl for name, module in replaced.items()}

    def replacement(name: str, module: nn.Module) -> Any:
        usual = saved[name] or module._call_impl

        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != session.thread:  # another thread uses the same model meanwhile
                if code.met is None:  # the forward itself may wait for that thread; then the trace is over
                    tracelock.wait()
                return usual(*args, **kwargs)
            return session.call(name, module, args, kwargs) if name else usual(*args, **kwargs)

        return call

    traces.append(session)
    try:
        for name, module in replaced.items():
            module._compiled_call_impl = replacement(name, module)
        yield session
    finally:
        for name, module in replaced.items():
            if saved[name] is None:
                module.__dict__.pop("_compiled_call_impl", None)
            else:
                module._compiled_call_impl = saved[name]
        traces.pop()
