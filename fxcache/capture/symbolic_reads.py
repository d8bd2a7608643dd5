"""Numbers that Python code reads while it is traced on fake tensors, and what it decides by them.

A number that is read becomes a symbol, so that the graph works it out anew on every call. Where the forward
needs to know something of it (a comparison, mostly), it is told what is so now, and that outcome becomes a
read of the trace, as `ValueReads` makes of values: `guards` works it out again on later calls by the very
operations of the forward, so that nothing depends on how symbols are simplified.

All that this needs of torch's private parts about symbolic numbers is here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch.fx import GraphModule, Node
from torch.overrides import TorchFunctionMode

from ..environment.refused_trace import RefusedTrace
from ..ir.dataflow import ancestors
from ..torch_private import (
    ConstantSource,
    DimDynamic,
    FakeTensor,
    ShapeEnv,
    TorchDispatchMode,
    get_proxy_mode,
    get_proxy_slot,
    pytree,
    track_tensor_tree,
    without_dispatch_modes,
)
from .partial_evaluation import PartialEvaluation
from .traced_numbers import is_traced_number, traced_number

ITEM = torch.ops.aten._local_scalar_dense.default
COMPOSITES = (torch.ops.aten.item.default, torch.ops.aten.is_nonzero.default)
_KINDS: Mapping[type, Callable[[Any], Any]] = {
    bool: torch.SymBool,
    int: torch.SymInt,
    float: torch.SymFloat,
}
_COMPARED: Mapping[type, Callable[[Any, Any], Any]] = {
    sympy.Gt: operator.gt,
    sympy.Ge: operator.ge,
    sympy.Lt: operator.lt,
    sympy.Le: operator.le,
    sympy.Ne: operator.ne,
    sympy.Eq: operator.eq,
}


class ReadEnv(ShapeEnv):
    """Symbols of sizes and of numbers that were read; what is decided by the latter goes to `reads`."""

    reads: SymbolicReads | None = None

    def evaluate_sym_node(
        self, sym_node: Any, size_oblivious: bool = False, fallback_value: bool | None = None
    ) -> Any:
        """What a decision comes to."""
        known = self.reads.decided(sym_node) if self.reads is not None else None
        return (
            known
            if known is not None
            else super().evaluate_sym_node(sym_node, size_oblivious, fallback_value)
        )


class SymbolicReads(TorchDispatchMode):
    """Gives symbols for the numbers that are read, and collects what is decided by them.

    env: of the trace. inputs: the real flat inputs. numbers: which of them are numbers themselves, whose
    values the forward must not need. all_items: whether every read gets a symbol, or those of `numbers` only.
    copies, values: as those of `ValueReads`.
    """

    supports_higher_order_operators = True

    def __init__(
        self, env: ReadEnv, inputs: Sequence[torch.Tensor], numbers: frozenset[int], all_items: bool
    ) -> None:
        super().__init__()
        env.reads = self
        self._env = env
        self._inputs = inputs
        self._numbers = numbers
        self._all = all_items
        self.begin()

    def begin(self) -> None:
        """Start over, with a new trace."""
        self.copies: list[Any] = []
        self.values: list[Any] = []
        self._items: list[Any] = []
        self._refused: RefusedTrace | None = None
        self._deferred: list[tuple[Callable[[Any, Any], Any], Any, Any, bool]] = []
        self._known: set[Any] = set()
        self._start(recording=True)

    def again(self) -> SymbolicReads:
        """The same for a trace of the graph that the first one gave: the same reads in the same order."""
        self._start(recording=False)
        return self

    def _start(self, recording: bool) -> None:
        self._recording = recording
        self._count = 0
        self._tracer: Any = None
        self._so_far: PartialEvaluation | None = None

    def finish(self) -> None:
        """To be called where the forward ends. Raises `RefusedTrace`, also one that the forward caught."""
        if self._refused is not None:
            raise self._refused
        for compare, left, right, outcome in self._deferred:
            self.copies.append(compare(left, right))
            self.values.append(outcome)

    @property
    def symbols(self) -> frozenset[Any]:
        """What stands for the numbers read."""
        return frozenset(item.node.expr for item in self._items)

    # ------------------------------------------------------------------ reading

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in COMPOSITES:  # in inference mode these arrive whole
            with self:
                return func.decompose(*args, **kwargs)
        if func is ITEM and isinstance(args[0], FakeTensor):
            node = self._node_of(args[0])
            if node is not None and (self._all or self._is_number(node)):
                return self._read(node, args[0])
        return func(*args, **kwargs)

    def _node_of(self, tensor: torch.Tensor) -> Node | None:
        mode = get_proxy_mode()
        if mode is None:
            return None
        proxy = get_proxy_slot(tensor, mode.tracer, None)
        if proxy is None:
            return None
        if self._tracer is None:
            self._tracer = mode.tracer
            self._so_far = PartialEvaluation(mode.tracer, self._inputs)
        return proxy.proxy.node  # type: ignore[no-any-return, attr-defined]

    def _is_number(self, node: Node) -> bool:
        return node.op == "placeholder" and self._place(node) in self._numbers

    def _place(self, node: Node) -> int:
        return list(node.graph.find_nodes(op="placeholder")).index(node)

    def _read(self, node: Node, tensor: torch.Tensor) -> Any:
        assert self._so_far is not None
        if tensor.dtype == torch.bool:
            value = self._so_far.value(node)
            if self._recording:
                self.copies.append(tensor.clone())  # traced: as it is now
                self.values.append(value)
            return self._plain(value)
        item = self._item(node)
        self._count += 1
        proxy = self._tracer.create_proxy("call_function", ITEM, (self._tracer.unwrap_proxy(tensor),), {})
        return track_tensor_tree(item, proxy, constant=None, tracer=self._tracer)

    def _item(self, node: Node) -> Any:
        if self._count < len(self._items):
            return self._items[self._count]
        if not self._recording:
            raise self._refuse("its Python code reads more when writes are taken out")
        assert self._so_far is not None
        value = self._plain(self._so_far.value(node))
        env, source = self._env, ConstantSource(f"number{self._count}")
        symbol = env.create_unspecified_symbol(value, source, DimDynamic.DYNAMIC)
        if isinstance(value, float):
            item: Any = env.create_symfloatnode(symbol, hint=value, source=source)
        else:
            item = env.create_symintnode(symbol, hint=value, source=source)
        self._items.append(item)
        return item

    @staticmethod
    def _plain(value: torch.Tensor) -> Any:
        with without_dispatch_modes():
            return value.item()

    # ------------------------------------------------------------------ deciding

    def decided(self, sym_node: Any) -> Any:
        """What the forward is to be told about a number; None where it does not depend on one read."""
        if self._tracer is None:
            return None
        number = _KINDS[sym_node.pytype](sym_node)
        slot = self._tracer.symnode_tracker.get(number)
        if slot is not None:
            node = slot.force().node
            origins = {n for n in ancestors([node]) if n.target is ITEM}
            if origins:
                return self._outcome(number, node, origins)
        free: frozenset[Any] = getattr(sym_node.expr, "free_symbols", frozenset())
        if free.isdisjoint(self.symbols):
            return None
        return self._compared(sym_node.expr)

    def _outcome(self, number: Any, node: Node, origins: set[Node]) -> Any:
        assert self._so_far is not None
        value = self._so_far.value(node)
        if not self._recording or node in self._known:
            return value
        sources = (n for origin in origins for n in origin.all_input_nodes)
        if (node in origins or isinstance(value, float)) and any(map(self._is_number, sources)):
            raise self._refuse("its Python code needs the value of a number")
        self._known.add(node)
        self.copies.append(number)
        self.values.append(value)
        return value

    def _compared(self, expression: Any) -> bool:
        """A comparison outside of the forward itself, of which there is no record: in a leaf, in a kernel."""
        compare = _COMPARED.get(type(expression))
        sides = [self._side(s) for s in expression.args] if compare is not None else []
        if compare is None or None in sides:
            raise self._refuse(f"something depends on a number by {expression}")
        (left, left_value), (right, right_value) = sides  # type: ignore[misc]
        outcome = bool(compare(left_value, right_value))
        if self._recording and expression not in self._known:
            self._known.add(expression)
            self._deferred.append((compare, left, right, outcome))
        return outcome

    def _side(self, side: Any) -> tuple[Any, Any] | None:
        for item in self._items:
            if item.node.expr == side:
                return item, item.node.hint
        if getattr(side, "is_number", False):
            number = int(side) if side.is_integer else float(side)
            return number, number
        return None

    def _refuse(self, why: str) -> RefusedTrace:
        self._refused = self._refused or RefusedTrace(why)
        return self._refused


def refuse_sized(graph: GraphModule, symbols: frozenset[Any]) -> None:
    """Raises `RefusedTrace` where a size depends on these: state has sizes that the shapes of inputs tell."""
    for node in graph.graph.nodes:
        for value in pytree.tree_leaves(node.meta.get("val")):
            if isinstance(value, torch.Tensor):
                sizes: list[Any] = [s for s in value.shape if isinstance(s, torch.SymInt)]
                if any(not symbols.isdisjoint(s.node.expr.free_symbols) for s in sizes):
                    raise RefusedTrace(f"the size of '{node.name}' depends on a number that is read")


# Functions that make tensors of numbers, and how many arguments they take before these.
MAKING: Mapping[Any, int] = {torch.tensor: 0, torch.as_tensor: 0, torch.Tensor.new_tensor: 1}


# Functions that give sizes.
SIZES = frozenset({
    torch.Tensor.shape.__get__,  # type: ignore[attr-defined]
    torch.Tensor.size, torch.Tensor.numel, torch.Tensor.nelement,
    torch.Tensor.stride, torch.Tensor.storage_offset,
})  # fmt: skip


class TracedItems(TorchFunctionMode):
    """What `item` and `tolist` give, and sizes, pass for Python's numbers; tensors are made of these without
    a read."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        places = MAKING.get(func)
        if places is not None and _makes_of_numbers(places, args, kwargs):
            like = {"dtype": args[0].dtype, "device": args[0].device} if places else {}
            return _tensor_of(args[-1], **(like | kwargs))
        result = func(*args, **kwargs)
        if func in (torch.Tensor.item, torch.Tensor.tolist):
            return pytree.tree_map(traced_number, result)
        return _traced_sizes(result) if func in SIZES else result


def _traced_sizes(sizes: Any) -> Any:
    if not isinstance(sizes, tuple):
        return traced_number(sizes)
    return type(sizes)([traced_number(size) for size in sizes])


def _makes_of_numbers(places: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    usual = len(args) == places + 1 and kwargs.keys() <= {"dtype", "device"}
    return usual and any(map(is_traced_number, _listed(args[places])))


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _tensor_of(value: Any, dtype: torch.dtype | None = None, device: Any = None) -> torch.Tensor:
    """`torch.tensor(value)` for a number or a list of such."""
    numbers = _listed(value)
    if dtype is None:
        floating = any(isinstance(n, (float, torch.SymFloat)) for n in numbers)
        dtype = torch.get_default_dtype() if floating else torch.int64
    tensors = [torch.full((), n, dtype=dtype, device=device) for n in numbers]
    return torch.stack(tensors) if isinstance(value, (list, tuple)) else tensors[0]
