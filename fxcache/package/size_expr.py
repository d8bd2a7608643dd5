"""Size expressions of a manifest: arithmetic and comparisons, of which nothing is run."""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping
from typing import Any

OPERATORS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
FUNCTIONS: dict[str, Any] = {"max": max, "min": min, "Max": max, "Min": min}


def evaluate(expression: int | str, sizes: Mapping[str, int]) -> int:
    """A size expression of a manifest, with arithmetic and comparisons only: nothing in it is run.

    Raises `ValueError` for anything else.
    """
    if isinstance(expression, int):
        return expression
    return int(_evaluate(ast.parse(expression, mode="eval").body, sizes))


def _evaluate(node: ast.expr, sizes: Mapping[str, int]) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return node.value
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        value = _evaluate(node.operand, sizes)
        return -value if isinstance(node.op, ast.USub) else not value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_evaluate(node.left, sizes), _evaluate(node.right, sizes))
    if isinstance(node, ast.BoolOp):
        values = [_evaluate(v, sizes) for v in node.values]
        return all(values) if isinstance(node.op, ast.And) else any(values)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in OPERATORS:
        compare = OPERATORS[type(node.ops[0])]
        return compare(_evaluate(node.left, sizes), _evaluate(node.comparators[0], sizes))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        return FUNCTIONS[node.func.id](*(_evaluate(a, sizes) for a in node.args))
    raise ValueError(f"not a size expression: {ast.dump(node)}")
