"""Which modules a forward calls, and within which other calls, whoever holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import nn

from ..environment.executed_code import CALL_OF_MODULE, ExecutedCode
from ..environment.profilers import told_of_calls
from ..environment.trace_sandbox import Sandbox
from ..torch_private import FakeTensorMode
from .glue_watch import Calls, GlueWatch
from .operator_schemas import storage_of
from .untraceable_code import OTHER_THREADS


@dataclass(eq=False)
class ModuleCall:
    """A call of `module`, and the calls that it made."""

    module: nn.Module
    inner: list[ModuleCall] = field(default_factory=list)

    def walk(self) -> Iterator[ModuleCall]:
        """This call and those within, in order."""
        pending = [self]
        while pending:
            call = pending.pop()
            yield call
            pending.extend(reversed(call.inner))


@dataclass
class ModuleCalls:
    """The calls of modules in one thread while they are noted.

    code: what ran in and between them.
    """

    made: list[ModuleCall] = field(default_factory=list)
    code: ExecutedCode = field(default_factory=ExecutedCode)
    _under_way: list[tuple[FrameType, ModuleCall]] = field(default_factory=list)

    def note(self, frame: FrameType, event: str, argument: Any) -> None:
        """What a profiler is told."""
        if frame.f_code is not CALL_OF_MODULE:
            return
        if event == "return" and self._under_way and self._under_way[-1][0] is frame:
            self._under_way.pop()
        elif event == "call":
            call = ModuleCall(frame.f_locals["self"])
            (self._under_way[-1][1].inner if self._under_way else self.made).append(call)
            self._under_way.append((frame, call))


def calls_on_fakes(
    forward: Callable[..., Any], model: nn.Module, tensors: Sequence[torch.Tensor], sandbox: Sandbox
) -> ModuleCalls:
    """The calls of modules that `forward(*tensors)`, a call of `model`, makes; found on fake tensors.

    Raises what the forward raises, and `RefusedTrace` before a parameter or buffer is written or exchanged.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    flat = [mode.from_tensor(t, static_shapes=True) for t in tensors]
    with mode:
        return calls_on_values(forward, model, flat, sandbox)


def calls_on_values(
    forward: Callable[..., Any], model: nn.Module, tensors: Sequence[torch.Tensor], sandbox: Sandbox
) -> ModuleCalls:
    """`calls_on_fakes`, on real tensors, for a forward that reads values."""
    glue = GlueWatch(model, ())

    def protect(module: nn.Module) -> None:
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            storage = storage_of(tensor)
            if storage is not None:
                glue.memory.setdefault(storage, name)

    calls = ModuleCalls(code=ExecutedCode((sandbox.running,), OTHER_THREADS, (sandbox.calling, protect)))
    with glue, Calls(glue), glue.watching(), calls.code.watching(), told_of_calls(calls.note):
        forward(*tensors)
    return calls
