"""TorchInductor: one graph with the conditional inside, or stages with the decision on the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from ..capture.leaf_adapter import called_leaf
from ..errors import BackendError, CompilationError
from ..ir.program import Program
from ..ir.stage import Stage
from ..torch_private import (
    BackendCompilerFailed,
    TorchRuntimeError,
    Unsupported,
    UserError,
    capturing_scalars,
    compiler_reason,
    is_marked,
    mark_static,
    maybe_mark_dynamic,
)
from .cudagraph_state_pool import with_pooled_state
from .host.deferred_stores import defer_stores
from .host.dispatch import Runner, host_runner
from .host.stage_fusion import host_path
from .inductor_cond import inductor_conditionals
from .modes import MODES, Mode
from .recompilation import compiled


@dataclass(frozen=True)
class Inductor:
    """The lowering to TorchInductor; call it with a program.

    mode:
        fused: a cached step (front, skip and back) and a miss (compute and back) compiled as whole graphs,
            the decision on the host: every step starts as a cached one, and goes on with the miss where
            it is none. Where a hit does much (Bn blocks), the front apart. The fastest steps.
        single: one graph, the conditional inside it.
        staged: as fused, but a miss runs its blocks one by one, each class compiled once for each memory
            layout of its inputs: the compile time hardly depends on the depth.
        reduce-overhead: front, hit and miss each recorded as a CUDA graph, the decision between them; the
            memory of a state is kept for the next trajectory, since graphs write to fixed addresses.
    dynamic: as in `torch.compile`; None compiles for other sizes when they come.
    options: further arguments of `torch.compile`. `fullgraph=False` lets the compiler break a graph where
        the model's Python code leaves it no choice; without it that is a `CompilationError` on first use.

    Raises `BackendError` for an unknown mode, for CUDA graphs without CUDA, or for breaks in a single graph.
    """

    mode: Mode = "fused"
    dynamic: bool | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise BackendError(f"mode={self.mode!r} of fxcache.compile()", f"be one of {', '.join(MODES)}")
        if self.mode == "reduce-overhead" and not torch.cuda.is_available():
            raise BackendError(
                'mode="reduce-overhead" of fxcache.compile()',
                "run on CUDA, whose graphs it records; use fused",
            )
        if self.mode == "single" and not self.options.get("fullgraph", True):
            raise BackendError(
                'fullgraph=False with mode="single" of fxcache.compile()', 'be mode="fused" or "staged"'
            )

    def __call__(self, program: Program) -> Runner:
        run = self._with_marks(program, self._by_mode(program))
        return self._explaining(program, _with_numbers(program, run))

    @property
    def flexible(self) -> bool:
        """Whether graphs may read numbers out of tensors, and be given any memory as their state.

        A CUDA graph has those of its recording.
        """
        return self.mode != "reduce-overhead"

    def _by_mode(self, program: Program) -> Runner:
        if self.mode == "single":
            assert program.graph is not None
            return self._single(program.graph)
        path = host_path(program)
        if self.mode == "staged":
            return host_runner(program, path, self._stage_by_blocks(program))
        if self.mode == "reduce-overhead":
            run = host_runner(program, path.decided_first(), self._recorded)
            return with_pooled_state(run, len(program.capture.inputs))
        if all(s.device.type == "cpu" for s in program.state):
            return host_runner(program, path, lambda stage: defer_stores(stage, self.compiled))
        return host_runner(program, path, lambda stage: self.compiled(stage.graph))

    def compiled(self, function: Callable[..., Any], **more: Any) -> Runner:
        """`function` compiled without a graph break."""
        if isinstance(function, GraphModule):
            function = function.forward  # a module's call goes through several frames that do nothing here
        options = {"fullgraph": True, "dynamic": self.dynamic, **self.options, **more}
        return compiled(function, options)

    def _single(self, graph: GraphModule) -> Runner:
        backend = self.options.get("backend", inductor_conditionals)
        if self.dynamic is False:
            return self.compiled(graph, backend=backend)
        # Sizes are marked one by one (see `_with_marks`): with all numbers open the conditional would be
        # given the floats that the model holds, which it does not take.
        return self.compiled(graph, backend=backend, dynamic=None)

    def _with_marks(self, program: Program, run: Runner) -> Runner:
        """`run`, told by the capture which sizes are open and which are not.

        The compiler takes equal sizes for the same size: a batch of 2 would be as fixed as the two rows
        of the log.
        """
        if not self.dynamic:
            return run
        placeholders = program.capture.graph.graph.find_nodes(op="placeholder")
        shapes = [*(n.meta["val"].shape for n in placeholders), *(s.shape for s in program.state)]
        open_sizes = [[d for d, size in enumerate(s) if not isinstance(size, int)] for s in shapes]

        def marking(*values: Any) -> tuple[Any, ...]:
            for value, dims in zip(values, open_sizes, strict=True):
                if dims and not is_marked(value, dynamic=True):
                    maybe_mark_dynamic(value, dims)
                elif not dims and not is_marked(value, dynamic=False):
                    mark_static(value)
            return run(*values)

        return marking

    def _explaining(self, program: Program, run: Runner) -> Runner:
        """`run`, whose failure to compile is an error that says why, and what to do."""

        def running(*values: Any) -> tuple[Any, ...]:
            try:
                return run(*values)
            except RuntimeError as error:
                why = _why_not_compiled(error, self.mode)
                if why is None:
                    raise
                raise CompilationError(type(program.capture.model).__name__, self.mode, *why) from error

        return running

    def _stage_by_blocks(self, program: Program) -> Callable[[Stage], Runner]:
        """Stages with middle blocks run eagerly around compiled blocks; the others compile whole."""
        middle = {b.name for s in program.segments for b in s.middle}
        calls: dict[type, Runner] = {}

        def lower(stage: Stage) -> Runner:
            nodes = stage.graph.graph.find_nodes(op="call_module")
            blocks = [str(n.target) for n in nodes if n.target in middle]
            if not blocks:
                return self.compiled(stage.graph)
            return with_blocks(stage.graph, blocks, lambda block: self._block(block, calls))

        return lower

    def _block(self, block: nn.Module, calls: dict[type, Runner]) -> Runner:
        # One compiled function for each class: parameters are inputs of the compiled code, so that all
        # blocks of a class that are built alike share it.
        kind = type(called_leaf(block))
        if kind not in calls:
            # The compiler counts its recompilations by code object: each class has one of its own.
            code = _call_block.__code__.replace(co_name=f"call_{kind.__name__}")
            calls[kind] = self.compiled(FunctionType(code, _call_block.__globals__))
        compiled = calls[kind]
        return lambda *args, **kwargs: compiled(block, args, kwargs)

    def _recorded(self, stage: Stage) -> Runner:
        """A stage as a CUDA graph; what the last of a step gives outlives the next replay."""
        run = self.compiled(stage.graph, mode="reduce-overhead")
        if not any(name.startswith("output_") for name in stage.outputs):
            return run
        return lambda *values: tuple(r.clone() for r in run(*values))


def _with_numbers(program: Program, run: Runner) -> Runner:
    """`run`, told to compile what the graph reads out of tensors rather than end at it."""
    graph = program.capture.graph.graph
    if not graph.find_nodes(op="call_function", target=torch.ops.aten._local_scalar_dense.default):
        return run

    def running(*values: Any) -> tuple[Any, ...]:
        with capturing_scalars():
            return run(*values)

    return running


def _why_not_compiled(error: RuntimeError, mode: Mode) -> tuple[str, str] | None:
    """The reason that the compiler gives and what to do; None where the error is not one of compiling."""
    if not isinstance(error, (BackendCompilerFailed, TorchRuntimeError, Unsupported, UserError)):
        return None
    reason = compiler_reason(error)
    if mode == "single":
        return reason, 'mode="fused" asks less of the compiler.'
    if isinstance(error, (Unsupported, UserError)):
        return reason, (
            "The model itself does not compile as one graph; with fullgraph=False the compiler breaks the "
            "graph there."
        )
    return reason, "The cause is above; the cached model runs without fxcache.compile()."


def _call_block(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return block(*args, **kwargs)


def with_blocks(graph: GraphModule, names: list[str], lower: Callable[[nn.Module], Runner]) -> Runner:
    """`graph` with the calls of some of its modules replaced by what `lower` makes of them."""
    runners = {name: lower(graph.get_submodule(name)) for name in names}
    new = torch.fx.Graph()
    env: dict[torch.fx.Node, torch.fx.Node] = {}
    for node in graph.graph.nodes:
        if node.op == "call_module" and node.target in runners:
            args = torch.fx.map_arg(node.args, lambda n: env[n])
            kwargs = torch.fx.map_arg(node.kwargs, lambda n: env[n])
            env[node] = new.call_function(runners[str(node.target)], args, kwargs)
        else:
            env[node] = new.node_copy(node, lambda n: env[n])
    return GraphModule(graph, new, class_name=type(graph).__name__ + "ByBlocks").forward
