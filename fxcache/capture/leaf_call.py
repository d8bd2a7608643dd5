"""The operator that stands for the call of a leaf while a forward is traced.

Its tracing rule records a single node; its fake rule has the trace run the real module on fake tensors, to
learn what comes out. `lower_leaf_calls` turns each such node into a `call_module` on the original. There is
no public way to record a module call as one node below the functionalization layer.
"""

from __future__ import annotations

from typing import Any, Protocol

from ..torch_private import (
    DispatchKey,
    FakeTensorMode,
    HigherOrderOperator,
    ProxyTorchDispatchMode,
    below_autograd,
    disable_proxy_modes_tracing,
    pytree,
    track_tensor_tree,
)


class Tracing(Protocol):
    """A trace that is under way, as the operator sees it: calls of leaves by number."""

    def run(self, index: int, operands: tuple[Any, ...]) -> tuple[Any, ...]: ...

    def describe(self, index: int, operands: tuple[Any, ...]) -> tuple[Any, ...]: ...


class _LeafCall(HigherOrderOperator):
    def __init__(self) -> None:
        super().__init__("fxcache_leaf_call")

    def __call__(self, index: int, *operands: Any) -> tuple[Any, ...]:
        return super().__call__(index, *operands)  # type: ignore[no-any-return]


leaf_call = _LeafCall()
traces: list[Tracing] = []  # the stack of traces under way; guarded by `capture`'s lock


@leaf_call.py_impl(DispatchKey.CompositeExplicitAutograd)
def _run(index: int, *operands: Any) -> tuple[Any, ...]:
    return traces[-1].run(index, operands)


@leaf_call.py_impl(DispatchKey.Autograd)
def _below_autograd(index: int, *operands: Any) -> tuple[Any, ...]:
    with below_autograd():
        return leaf_call(index, *operands)


@leaf_call.py_impl(FakeTensorMode)
def _run_fake(mode: FakeTensorMode, index: int, *operands: Any) -> tuple[Any, ...]:
    with mode:
        return traces[-1].describe(index, operands)


@leaf_call.py_impl(ProxyTorchDispatchMode)
def _record(mode: ProxyTorchDispatchMode, index: int, *operands: Any) -> tuple[Any, ...]:
    tracer: Any = mode.tracer
    proxies = pytree.tree_map(tracer.unwrap_proxy, operands)
    proxy = tracer.create_proxy("call_function", leaf_call, (index, *proxies), {})
    with disable_proxy_modes_tracing():
        results = leaf_call(index, *operands)
    return track_tensor_tree(results, proxy, constant=None, tracer=tracer)


@leaf_call.py_functionalize_impl
def _functionalize(ctx: Any, index: int, *operands: Any) -> tuple[Any, ...]:
    unwrapped = ctx.unwrap_tensors(operands)
    with ctx.redispatch_to_next():
        results = leaf_call(index, *unwrapped)
    return ctx.wrap_tensors(results)  # type: ignore[no-any-return]
