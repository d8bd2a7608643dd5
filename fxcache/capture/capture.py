"""Capture: one call of a model's forward → an `fx.GraphModule` with the model's own modules in it.

The glue between modules becomes functional ATen nodes; each leaf module stays what it is, a
`call_module` on the original. Leaves are the items of the model's collections (the candidate blocks)
and every module that holds no such collection. Because leaves stay the originals, parameters, state-dict
keys, LoRA loaded later, quantized or hooked linears, `.to()` and offloading keep working.
"""

from __future__ import annotations

import contextlib
import functools
import linecache
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import sympy
import torch
from torch import nn

from ..environment.ambient_settings import without_observers
from ..environment.executed_code import is_foreign
from ..environment.profilers import cannot_share
from ..environment.refused_trace import RefusedTrace
from ..environment.trace_sandbox import pristine
from ..errors import BlockMutationError, CaptureError, DefectError, IgnoredInputError
from ..ir.captured import Capture
from ..ir.guards import ShapeGuards
from ..ir.module_lists import USUAL, Way, find_leaves, find_lists
from ..torch_private import (
    FAKE_TENSOR_LOG,
    ConstantSource,
    DimDynamic,
    FakeTensorMode,
    GuardOnDataDependentSymNode,
    StatelessSymbolicContext,
    compile_lock,
)
from .call_signature import arguments_structure, tensor_names
from .extract_value_guards import separate_reads
from .forward_inputs import ForwardInputs
from .input_splits import add_own_parts
from .leaf_adapter import called_leaf
from .lower_leaf_calls import finish_graph
from .module_calls import ModuleCalls, calls_on_fakes, calls_on_values
from .number_check import refuse_unlike
from .number_promotion import as_numbers
from .operand_writes import copied
from .operator_schemas import NUMBERS_WANTED, is_collective
from .record_leaves import LeafReadsError
from .rng_state import randomness_kept
from .root_hooks import FORWARD, forward_beneath, inner_hook
from .symbolic_reads import ReadEnv, SymbolicReads, refuse_sized
from .thread_isolation import unnoticed
from .trace_lock import LOCK
from .tracing import Trace, trace
from .uncompiled_functions import uncompiled
from .whole_parameters import class_of, fully_sharded, refuse_wrapped, whole_parameters

_LOG = logging.getLogger("fxcache")


def capture(
    model: nn.Module,
    bound: Mapping[str, Any],
    tensors: list[torch.Tensor],
    way: Way = USUAL,
    numbers: tuple[str, ...] = (),
    together: bool = False,
) -> Capture:
    """Capture the call `model(**bound)`.

    Args:
        model: the module whose forward is traced. It is left as it was.
        bound: all arguments by name.
        tensors: the flat tensors of `bound`, as `signature.flatten` orders them.
        way: which modules' calls stay whole.
        numbers: names of tensors that hold a number each, as which the forward is given them.
        together: whether other processes take part in the model's forward: then it is not run for real, as
            they need not run it now.

    Raises:
        CaptureError: no way of tracing worked; it holds the reason for each.
        BlockMutationError: a block writes to its inputs. IgnoredInputError: it looks at what is ignored.
    """
    attempts: dict[str, str] = {}
    last: Exception | None = None
    ways: tuple[tuple[str, Callable[..., Capture]], ...] = (
        ("symbolic", _capture_symbolic),
        ("static", _capture_fake),
        ("real", _capture_real),
    )
    together = together or bool(fully_sharded(model))
    if together:
        ways = ways[:-1]
    if numbers:
        ways = (("symbolic", functools.partial(_capture_symbolic, numbers=numbers)),)
    _refuse_sharded(model)
    _refuse_profiled(model)
    _refuse_hooked(model, bound)
    with LOCK, compile_lock, unnoticed(), torch.no_grad(), uncompiled(), without_observers():
        for how, attempt in ways:
            try:
                with randomness_kept():
                    return replace(attempt(model, bound, tensors, way, how), refused=attempts)
            except (BlockMutationError, IgnoredInputError, MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # whatever the model's own code raises under tracing
                if _is_ours(error):
                    raise DefectError(type(model).__name__, _one_line(error)) from error
                attempts[how], last = _one_line(error) + _place(error), error
    if together and not numbers:
        attempts["real"] = "other processes have a part in it, and need not run it now"
    raise CaptureError(class_of(model).__name__, attempts) from last


def module_calls(
    model: nn.Module,
    bound: Mapping[str, Any],
    tensors: list[torch.Tensor],
    numbers: tuple[str, ...] = (),
    together: bool = False,
) -> ModuleCalls:
    """The calls of modules in the call `model(**bound)`; none where they cannot be found out.

    Takes and raises what `capture` does, but for what comes of running the forward.
    """
    _refuse_sharded(model)
    _refuse_profiled(model)
    if fully_sharded(model):
        return ModuleCalls()
    names = tensor_names(bound)
    flat = [t for name, t in zip(names, tensors, strict=True) if name not in numbers]
    forward = _forward_of(model, as_numbers(bound) if numbers else bound)
    with LOCK, unnoticed(), torch.no_grad(), uncompiled(), without_observers():
        try:
            with randomness_kept(), pristine(model) as sandbox, _quiet():
                return calls_on_fakes(forward, model, flat, sandbox)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever the model's own code raises on fake tensors
            _LOG.debug("%s: its calls, on fake tensors: %s", type(model).__name__, _one_line(error))
        if together:
            return ModuleCalls()
        try:
            with randomness_kept(), pristine(model) as sandbox:
                return calls_on_values(forward, model, [_private(t) for t in flat], sandbox)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            _LOG.debug("%s: its calls: %s", type(model).__name__, _one_line(error))
            return ModuleCalls()


def _refuse_sharded(model: nn.Module) -> None:
    """Raises `CaptureError` before anything runs: gathering shards under a trace would leave fakes behind."""
    try:
        refuse_wrapped(model)
    except RefusedTrace as error:
        raise CaptureError(class_of(model).__name__, {"sharded": str(error)}) from error


def _refuse_profiled(model: nn.Module) -> None:
    why = cannot_share()
    if why is not None:
        raise CaptureError(type(model).__name__, {"profiled": why})


def _refuse_hooked(model: nn.Module, bound: Mapping[str, Any]) -> None:
    whose = inner_hook(model)
    if whose is not None and getattr(bound, "method", FORWARD) != FORWARD:
        why = (
            f"a hook of {whose} goes around its forward, which {bound.method}() may call: take it off, or "  # type: ignore[attr-defined]
            "leave out method= and cache the forward"
        )
        raise CaptureError(class_of(model).__name__, {"hooked": why})


def _is_ours(error: Exception) -> bool:
    """Whether an error is a slip of fxcache's own code rather than anything the model did."""
    if not isinstance(error, (AssertionError, AttributeError, NameError, LookupError)):
        return False
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_globals.get("__package__", "") == __package__


def _one_line(error: Exception) -> str:
    if isinstance(error, (RefusedTrace, CaptureError)):
        return str(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__


def _place(error: Exception) -> str:
    """Where in the model's code an error came from, for a person to look there."""
    frame, place = error.__traceback__, ""
    while frame is not None:
        module, code = str(frame.tb_frame.f_globals.get("__name__", "")), frame.tb_frame.f_code
        if not is_foreign(module):
            line = linecache.getline(code.co_filename, frame.tb_lineno).strip()
            place = f" ({module}, line {frame.tb_lineno}, in {code.co_name}: {line})"
        frame = frame.tb_next
    return place


def _forward_of(
    model: nn.Module, bound: Mapping[str, Any], numbers: tuple[int, ...] = ()
) -> Callable[..., Any]:
    # Hooks on the root (offloading) act around the whole call, not inside the graph: `cached` runs them.
    method = getattr(bound, "method", FORWARD)
    run, inputs = forward_beneath(model, method), ForwardInputs.of(model, method=method)
    arguments = arguments_structure(bound)
    positional = getattr(bound, "positional", 0)

    def forward(*flat: torch.Tensor) -> Any:
        given = [t.item() if i in numbers else t for i, t in enumerate(flat)]
        args, kwargs = inputs.arguments(arguments.fill(given), positional)
        return run(*args, **kwargs)

    return forward


def _capture_symbolic(
    model: nn.Module,
    bound: Mapping[str, Any],
    tensors: list[torch.Tensor],
    way: Way,
    how: str,
    numbers: tuple[str, ...] = (),
) -> Capture:
    try:
        return _capture_fake(model, bound, tensors, way, how, numbers=numbers)
    except GuardOnDataDependentSymNode as error:  # it decides by numbers that it reads
        try:
            return _capture_fake(model, bound, tensors, way, how, numbers=numbers, reading=True)
        except (BlockMutationError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as other:
            if _is_ours(other):
                raise
            _LOG.debug("%s: not with symbols for numbers: %s", type(model).__name__, _one_line(other))
            raise error from None
    except RuntimeError as error:
        if NUMBERS_WANTED not in str(error):
            raise
    return _capture_fake(model, bound, tensors, way, how, decomposed=True, numbers=numbers)


def _capture_fake(
    model: nn.Module,
    bound: Mapping[str, Any],
    tensors: list[torch.Tensor],
    way: Way,
    how: str,
    decomposed: bool = False,
    numbers: tuple[str, ...] = (),
    reading: bool = False,
) -> Capture:
    """On fake tensors. reading: give every number that is read a symbol, and note what is decided by it."""
    symbolic = how == "symbolic"
    env = ReadEnv(
        duck_shape=False,  # equal sizes stay different symbols until the model itself compares them
        allow_scalar_outputs=symbolic,
        allow_dynamic_output_shape_ops=symbolic,
    )
    mode = FakeTensorMode(shape_env=env if symbolic else None, allow_non_fake_inputs=True)
    flat = [fake_input(mode, t, f"input{i}", symbolic) for i, t in enumerate(tensors)]
    names = tensor_names(bound) if numbers else []
    places = tuple(i for i, name in enumerate(names) if name in numbers)
    reads = SymbolicReads(env, tensors, frozenset(places), reading) if numbers or reading else None
    dims = [[_expression(s) for s in t.shape] for t in flat]
    leaves = find_leaves(model, way)
    with whole_parameters(model, mode), pristine(model) as sandbox, _quiet():
        forward = _forward_of(model, bound, places)
        traced = trace(forward, leaves, lambda: flat, model, sandbox, False, decomposed, reads)
    if reads is not None:
        refuse_sized(traced.graph, reads.symbols)
    captured = _finished(model, bound, traced, leaves, ShapeGuards.of(env, dims), how)
    if not places:
        return captured
    given = {i: tensors[i].item() for i in places}
    others = [t for i, t in enumerate(tensors) if i not in given]
    constant = _capture_symbolic(model, as_numbers(bound), others, way, how)
    refuse_unlike(model, captured.graph, constant.graph, given)
    return replace(captured, numbers=places)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A way that does not work is no news: another is tried, and `CaptureError` names all."""
    logger, here = logging.getLogger(FAKE_TENSOR_LOG), threading.get_ident()

    def others(record: logging.LogRecord) -> bool:
        return record.thread != here

    logger.addFilter(others)
    try:
        yield
    finally:
        logger.removeFilter(others)


def fake_input(mode: FakeTensorMode, tensor: torch.Tensor, name: str, symbolic: bool) -> torch.Tensor:
    """A fake tensor like `tensor`, its sizes symbols of their own where `symbolic`."""
    if not symbolic:
        return mode.from_tensor(tensor, static_shapes=True)
    # Size 1 means broadcasting; a graph traced for it holds for no other size.
    sizes = [DimDynamic.STATIC if s in (0, 1) else DimDynamic.DYNAMIC for s in tensor.shape]
    context: Any = StatelessSymbolicContext(dynamic_sizes=sizes)
    return mode.from_tensor(tensor, source=ConstantSource(name), symbolic_context=context)


def _expression(size: Any) -> sympy.Expr:
    return size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(size)


def _capture_real(
    model: nn.Module,
    bound: Mapping[str, Any],
    tensors: list[torch.Tensor],
    way: Way,
    how: str,
) -> Capture:
    opened: frozenset[str] = frozenset()
    while True:
        leaves = find_leaves(model, way, opened)
        try:
            with pristine(model) as sandbox:
                traced = trace(
                    _forward_of(model, bound),
                    leaves,
                    lambda: [_private(t) for t in tensors],
                    model,
                    sandbox,
                    real=True,
                    blocks=way.blocks or frozenset(find_lists(model)),
                )
            break
        except LeafReadsError as error:  # trace into it, so that its reads are guarded
            opened |= {error.name}
    dims = [[sympy.Integer(s) for s in t.shape] for t in tensors]
    shapes = ShapeGuards(tuple(tuple(row) for row in dims), ())
    return _finished(model, bound, traced, leaves, shapes, how)


def _private(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that the trace may write to, laid out like `tensor`."""
    if 0 in tensor.stride():  # expanded: nothing can be written to it
        return tensor.detach()
    return copied(tensor.detach())


def _finished(
    model: nn.Module,
    bound: Mapping[str, Any],
    traced: Trace,
    leaves: Mapping[str, nn.Module],
    shapes: ShapeGuards,
    how: str,
) -> Capture:
    names = tuple(tensor_names(bound))
    values = separate_reads(traced, model)
    outcomes = [record.outcome for record in traced.calls if record.outcome is not None]
    communicates = any(o.communicates for o in outcomes) or any(map(is_collective, _operators(traced.graph)))
    graph = finish_graph(traced.graph, model, traced.calls, names)
    add_own_parts(graph)
    calls = graph.graph.find_nodes(op="call_module")
    used = {called_leaf(graph.get_submodule(str(n.target))) for n in calls}
    return Capture(
        model,
        graph,
        names,
        traced.output,
        {name: leaf for name, leaf in leaves.items() if leaf in used},
        shapes,
        values,
        how,
        effects=traced.effects,
        written=traced.written,
        settings=traced.settings,
        finals=traced.finals,
        code=traced.code,
        communicates=communicates,
    )


def _operators(graph: torch.fx.GraphModule) -> Iterator[Any]:
    return (node.target for node in graph.graph.nodes if node.op == "call_function")
