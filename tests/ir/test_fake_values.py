"""`FakeValues`: what is remembered of a function is what it would return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sympy
import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from fxcache import TaylorSeer
from fxcache.forecasters import Times
from fxcache.ir.fake_results import FakeResults
from fxcache.ir.fake_values import FakeValues
from fxcache.ir.state import StateTensor
from fxcache.ops.cache_check import cache_check
from fxcache.ops.clock import WIDTH, begin_step, commit_hit, commit_miss, computed_steps, log_step, times
from fxcache.ops.cond import materialize, store
from fxcache.ops.feedback import feedback_row, pay_back
from fxcache.ops.history import by_slot, remember, weighted_sum
from fxcache.ops.knobs import WIDTH as KNOBS
from fxcache.ops.nearness import is_near
from fxcache.ops.residual_diff import largest_row_diff, residual_diff
from fxcache.torch_private import ConstantSource, FakeTensorMode, pytree, storage_id

DOUBLE = torch.float64
SAMPLE = torch.zeros(2, 6, 8)
NOW, NUMBER, FLAG = torch.zeros(WIDTH, dtype=DOUBLE), torch.zeros(()), torch.tensor(True)
CLOCK, LOG, KNOB = torch.zeros(4, WIDTH, dtype=DOUBLE), torch.zeros(2, 1024), torch.zeros(KNOBS, dtype=DOUBLE)
HISTORY, WEIGHTS, COUNT = torch.zeros(2, 2, 6, 8), torch.zeros(2, dtype=DOUBLE), torch.zeros((), dtype=DOUBLE)
TIMES = Times(COUNT, (COUNT,) * 4, COUNT)

# Each function that the passes insert, and what it takes; a number stands for itself.
CALLS: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
    (is_near, (SAMPLE, SAMPLE)),
    (begin_step, (CLOCK, torch.zeros(2), FLAG)),
    (cache_check, (NOW, NUMBER, KNOB)),
    (residual_diff, (SAMPLE, SAMPLE)),
    (largest_row_diff, (SAMPLE, SAMPLE)),
    (commit_hit, (CLOCK, NOW, NUMBER, True)),
    (commit_miss, (CLOCK, NOW, NUMBER, "step")),
    (log_step, (LOG, NOW, 1.0, NUMBER)),
    (computed_steps, (NOW,)),
    (times, (NOW, "step")),
    (TaylorSeer(order=1).weights, (TIMES,)),
    (feedback_row, (TIMES, COUNT, WEIGHTS, 1)),
    (by_slot, (WEIGHTS, COUNT)),
    (remember, (HISTORY, SAMPLE, COUNT)),
    (weighted_sum, (HISTORY, WEIGHTS)),
    (weighted_sum, (HISTORY,)),
    (pay_back, (SAMPLE, SAMPLE, HISTORY, WEIGHTS, COUNT)),
    (store, (SAMPLE, SAMPLE)),
    (materialize, (SAMPLE,)),
    (torch.sub, (SAMPLE, SAMPLE)),
    (torch.clone, (SAMPLE.transpose(0, 2),)),
]


class Given:
    """A graph with one input for each tensor in `operands`, and what fake values it has."""

    def __init__(self, operands: Any, results: FakeResults, symbolic: bool = True) -> None:
        graph = Graph()
        mode = FakeTensorMode(shape_env=ShapeEnv(duck_shape=True), allow_non_fake_inputs=True)
        self.nodes: list[Node] = []

        def taken(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            number = len(self.nodes)
            node = graph.placeholder(f"input{number}")
            open_sizes = (2, 6) if symbolic else ()
            kinds = [DimDynamic.DYNAMIC if s in open_sizes else DimDynamic.STATIC for s in value.shape]
            context = StatelessSymbolicContext(dynamic_sizes=kinds)
            source = ConstantSource(f"input{number}")
            apart = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
            apart.requires_grad_(value.requires_grad)
            node.meta["val"] = mode.from_tensor(apart, source=source, symbolic_context=context)
            self.nodes.append(node)
            return node

        self.operands = pytree.tree_map(taken, operands)
        graph.output(())
        self.fakes = FakeValues(GraphModule(torch.nn.Module(), graph), results)

    def call(self, function: Callable[..., Any]) -> Any:
        return self.fakes.result(function, self.operands, {})


def description(value: Any) -> Any:
    """All that is to be seen of what a function returned."""
    if not isinstance(value, Tensor):
        return value
    sizes = [s.node.expr if isinstance(s, torch.SymInt) else s for s in (*value.shape, *value.stride())]
    return (type(value), value.dtype, value.device, sizes, value.storage_offset(), value.requires_grad)


def described(value: Any) -> Any:
    return pytree.tree_map(description, value)


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
@pytest.mark.parametrize(("function", "operands"), CALLS, ids=lambda v: getattr(v, "__name__", ""))
def test_a_later_capture_is_told_the_same(function: Any, operands: tuple[Any, ...], symbolic: bool) -> None:
    results = FakeResults()
    first, second = (Given(operands, results, symbolic) for _ in range(2))
    wanted = described(Given(operands, FakeResults(limit=0), symbolic).call(function))
    assert described(first.call(function)) == wanted
    found = second.call(function)
    assert described(found) == wanted
    for tensor in pytree.tree_leaves(found):
        if isinstance(tensor, Tensor):
            assert tensor.fake_mode is second.nodes[0].meta["val"].fake_mode


def test_what_is_remembered_does_not_run_again() -> None:
    results = FakeResults()
    for _ in range(2):
        given = Given((SAMPLE, SAMPLE), results)
        one, other = given.call(residual_diff), given.call(residual_diff)
        assert one is not other and storage_id(one) != storage_id(other)
    assert len(results) == 1


@pytest.mark.parametrize(
    "other",
    [
        torch.zeros(2, 6, 8, dtype=torch.bfloat16),
        torch.zeros(2, 6, 8, device="meta"),
        torch.zeros(2, 6, 9),
        torch.zeros(3, 6, 8),
        torch.zeros(8, 6, 2).transpose(0, 2),
        torch.zeros(2, 6, 8, requires_grad=True),
    ],
    ids=["dtype", "device", "size", "symbols", "strides", "gradients"],
)
def test_operands_of_another_kind_are_not_mixed_up(other: Tensor) -> None:
    results = FakeResults()
    Given((SAMPLE,), results).call(torch.clone)
    found = Given((other,), results).call(torch.clone)
    assert described(found) == described(Given((other,), FakeResults()).call(torch.clone))


def test_constants_of_another_kind_are_not_mixed_up() -> None:
    results, ints = FakeResults(), torch.zeros(3, dtype=torch.int64)
    given = [Given((ints, number), results).call(torch.add) for number in (1, 1.0, True)]
    assert [value.dtype for value in given] == [torch.int64, torch.float32, torch.int64]


def test_the_default_dtype_counts() -> None:
    results, ints = FakeResults(), torch.zeros(3, dtype=torch.int64)
    assert Given((ints, 1.5), results).call(torch.add).dtype == torch.float32
    before = torch.get_default_dtype()
    torch.set_default_dtype(DOUBLE)
    try:
        assert Given((ints, 1.5), results).call(torch.add).dtype == DOUBLE
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("function", [materialize, weighted_sum])
def test_what_shares_memory_with_an_operand_does_so_again(function: Callable[..., Tensor]) -> None:
    results = FakeResults()
    for _ in range(2):
        given = Given((HISTORY,), results)
        assert storage_id(given.call(function)) == storage_id(given.nodes[0].meta["val"])
    assert len(results) == 0


def test_what_is_written_in_place_is_described_as_before() -> None:
    results = FakeResults()
    for _ in range(2):
        given = Given((HISTORY, SAMPLE, COUNT), results)
        before = [description(n.meta["val"]) for n in given.nodes]
        assert given.call(remember) is None
        assert [description(n.meta["val"]) for n in given.nodes] == before


def test_functions_of_others_always_run() -> None:
    runs: list[Tensor] = []

    def theirs(value: Tensor) -> Tensor:
        runs.append(value)
        return value + 1

    results = FakeResults()
    for _ in range(3):
        Given((SAMPLE,), results).call(theirs)
    assert len(runs) == 3 and len(results) == 0


def test_what_is_known_of_sizes_counts() -> None:
    results = FakeResults()
    for extra in (0, 1):
        given = Given((torch.zeros(2, 6 + 6 * extra, 8),) * 2, results)
        given.call(residual_diff)
    assert len(results) == 2  # one with the hint 6, one with 12


def test_no_more_is_remembered_than_the_limit() -> None:
    results = FakeResults(limit=5)
    for size in range(3, 20):
        Given((torch.zeros(size),), results, symbolic=False).call(torch.clone)
        assert len(results) <= 5


def test_a_state_tensor_is_one_tensor() -> None:
    given = Given((SAMPLE,), FakeResults())
    size = given.nodes[0].meta["val"].shape[0].node.expr
    tensor = StateTensor("history", (3, size * 2, sympy.Integer(4)), torch.float16, torch.device("cpu"))
    made = given.fakes.state(tensor)
    assert made is given.fakes.state(tensor)
    sizes = [3, 2 * size, 4, 8 * size, 4, 1]
    assert description(made)[1:4] == (torch.float16, torch.device("cpu"), sizes)
