"""Size expressions of a manifest: arithmetic and comparisons, understood once, when the package is loaded.

Nothing of the text is run: its tree becomes nested functions of Python's own operators.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

SizeFunction = Callable[[Mapping[str, int]], Any]
OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{"max": max, "min": min, "Max": max, "Min": min, "abs": abs, "round": round},
    **{"math.trunc": math.trunc, "math.floor": math.floor, "math.ceil": math.ceil, "math.sqrt": math.sqrt},
    **{"torch.sym_float": float, "torch._sym_sqrt": math.sqrt},  # as torch prints square roots of sizes
}


def size_function(expression: int | str) -> SizeFunction:
    """The function of the sizes, by name, that `expression` writes down.

    It raises `KeyError` for a size that it is not given. Raises `ValueError` for what is no expression of
    sizes.

    Example:
        size_function("s0 // 2 + 1")({"s0": 8})  # 5
    """
    if isinstance(expression, int):
        return _constant(expression)
    if not isinstance(expression, str):
        raise ValueError(f"not a size expression: {expression!r}")
    try:
        return _function(ast.parse(expression, mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError) as error:  # the last two: nested too deep for a parser
        raise ValueError(f"not a size expression: {expression[:80]!r}") from error


def _function(node: ast.expr) -> SizeFunction:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return _constant(node.value)
    if isinstance(node, ast.Name):
        return operator.itemgetter(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        function = operator.neg if isinstance(node.op, ast.USub) else operator.not_
        return _applied(function, (node.operand,))
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return _binary(OPERATORS[type(node.op)], node.left, node.right)
    if isinstance(node, ast.BoolOp):
        parts = tuple(map(_function, node.values))
        combine = all if isinstance(node.op, ast.And) else any
        return lambda sizes: combine([part(sizes) for part in parts])
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in OPERATORS:
        return _binary(OPERATORS[type(node.ops[0])], node.left, node.comparators[0])
    if isinstance(node, ast.Call) and not node.keywords and _called(node.func) in FUNCTIONS:
        return _applied(FUNCTIONS[_called(node.func)], node.args)
    raise ValueError(f"not a size expression: {ast.dump(node)}")


def _called(node: ast.expr) -> str:
    """The name of a function, of a module or not; "" for what is no name."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _constant(value: Any) -> SizeFunction:
    return lambda sizes: value


def _binary(function: Callable[[Any, Any], Any], left: ast.expr, right: ast.expr) -> SizeFunction:
    one, other = _function(left), _function(right)
    return lambda sizes: function(one(sizes), other(sizes))


def _applied(function: Callable[..., Any], arguments: Sequence[ast.expr]) -> SizeFunction:
    parts = tuple(map(_function, arguments))
    return lambda sizes: function(*[part(sizes) for part in parts])
