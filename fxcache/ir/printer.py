"""A cached graph as text: one function that reads as the step runs.

Front, `if hit:` the replay, `else:` the middle blocks, back. What is remembered between steps is an
attribute of `state`; shapes stand beside, with dynamic sizes as s0, s1 and so on.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from .fold_statements import fold, history_names
from .program import Program
from .statements import INFIX, WIDTH, Body, Branch, Call, Ref, Sizes, Statement, Values, statements

COLUMNS = 110
BESIDE = 80  # the column of shapes, where the statement leaves it free


def render(program: Program) -> str:
    """The program as a reader would write it: what `print(cached.graph)` shows.

    Args:
        program: after the last pass.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> from fxcache.ir.printer import render
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> inputs = {"src": torch.randn(3, 1, 8)}
        >>> cached = fxcache.transform(model, "F1B1_W4M0MC3_T1O1_R0.12", example_inputs=inputs)
        >>> print(render(cached.graph.program), end="")
        def cached(src: f32[s0, 1, 8], state):
            # settings: F1B1_W4M0MC3_T1O1_R0.12
            # state: clock_0: f32[4, 11], log_0: f32[2, 1024], sample_0: f32[s0, 1, 8], previous_0: ...
            layers_0 = self.layers.0(src)                                               # f32[s0, 1, 8]
            residual_0 = layers_0 - src                                                 # f32[s0, 1, 8]
            now_0 = continue_step(state.clock_0, is_near(src, state.sample_0))          # f32[11]
            ...
            output_0 = self.layers.3(layers_2)                                          # f32[s0, 1, 8]
            return output_0
    """
    body = fold(statements(program), [s.name for s in program.state], text)
    lines = [*_signature(program), *_body(body, 4)]
    return "\n".join(lines) + "\n"


def _signature(program: Program) -> Iterator[str]:
    assert program.graph is not None
    sizes = Sizes()
    state = {s.name: s for s in program.state}
    inputs = [n for n in program.graph.graph.find_nodes(op="placeholder") if n.name not in state]
    shown = [f"{n.name}: {sizes.describe(n.meta.get('val')) or 'int'}" for n in inputs]
    yield from _wrapped("def cached(", shown, ", state):", 0)
    yield f"    # settings: {program.config}"
    yield from _wrapped("# state: ", describe_state(program, sizes), "", 4)


def describe_state(program: Program, sizes: Sizes) -> list[str]:
    """`name: dtype[sizes]` of what is remembered.

    sizes: names the symbols of sizes, as s0, s1 and so on in the order in which it meets them.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> from fxcache.ir.statements import Sizes
        >>> from fxcache.ir.printer import describe_state
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> inputs = {"src": torch.randn(3, 1, 8)}
        >>> cached = fxcache.transform(model, "F1B1_W4M0MC3_T1O1_R0.12", example_inputs=inputs)
        >>> describe_state(cached.graph.program, Sizes())
        ['clock_0: f32[4, 11]', 'log_0: f32[2, 1024]', ..., 'history_0: f32[2, s0, 1, 8]']
    """
    names = history_names(s.name for s in program.state)
    return [
        f"{names.get(tensor.name, tensor.name)}: "
        + sizes.tensor(WIDTH.get(tensor.dtype, str(tensor.dtype).removeprefix("torch.")), tensor.shape)
        for tensor in program.state
    ]


def _body(body: Body, indent: int) -> Iterator[str]:
    pending: list[str] = []  # effects, of which some go into one line
    for part in body:
        effect = isinstance(part, Statement) and not part.names and _is_effect(part)
        if pending and not (effect and len("; ".join([*pending, text(part.value)])) <= COLUMNS - indent):
            yield " " * indent + "; ".join(pending)
            pending = []
        if effect:
            pending.append(text(part.value))
        elif isinstance(part, Branch):
            yield f"{' ' * indent}if {text(part.hit)}:"
            yield from _body(part.skip or [Statement((), Ref("pass"))], indent + 4)
            yield f"{' ' * indent}else:"
            yield from _body(part.compute or [Statement((), Ref("pass"))], indent + 4)
        else:
            yield from _statement(part, indent)
    if pending:
        yield " " * indent + "; ".join(pending)


def _is_effect(part: Statement) -> bool:
    return isinstance(part.value, Call) and part.value.target != "return"


def _statement(part: Statement, indent: int) -> Iterator[str]:
    names = ", ".join("_" if n is None else text(n) for n in part.names)
    start = f"{names} = " if names else ""
    value = part.value
    if isinstance(value, Call) and value.target == "return":
        yield from _wrapped("return ", [text(a) for a in value.args], "", indent)
        return
    line = " " * indent + start + text(value)
    beside = f"# {', '.join(part.shapes)}" if part.shapes else ""
    if len(line) <= COLUMNS:
        yield _with(line, beside)
        return
    if isinstance(value, Call) and not _is_infix(value):
        head, *rest = _wrapped(f"{start}{value.target}(", _arguments(value), ")", indent)
        yield _with(head, beside)
        yield from rest
        return
    yield from textwrap.wrap(line, COLUMNS, subsequent_indent=" " * (indent + 4), break_long_words=False)


def _with(line: str, beside: str) -> str:
    if not beside:
        return line
    told = f"{line:<{BESIDE - 2}}  {beside}"
    if len(told) > COLUMNS:
        told = f"{line}  {beside}"
    return told if len(told) <= COLUMNS else line


def _wrapped(start: str, items: Sequence[str], end: str, indent: int) -> Iterator[str]:
    """A call or the like, over several lines where it is too long for one."""
    margin = "# " if start.startswith("# ") else ""
    inner = " " * indent + margin + " " * (7 if margin else 8)
    pieces = [item + (end if i == len(items) - 1 else ",") for i, item in enumerate(items)]
    line = " " * indent + start
    whole = line + " ".join(pieces)
    if not margin and len(whole) > COLUMNS and len(line) + len(pieces[0]) > COLUMNS:
        yield line.rstrip()
        line = inner
    fresh = True
    for piece in pieces:
        if not fresh and len(line) + 1 + len(piece) > COLUMNS:
            yield line
            line, fresh = inner, True
        line += piece if fresh else f" {piece}"
        fresh = False
    yield line


def _is_infix(value: Call) -> bool:
    return value.target.removeprefix("aten.") in INFIX and len(value.args) == 2 and not value.kwargs


def text(value: Any) -> str:
    """A value of a statement as a person would write it.

    Example:
        >>> from fxcache.ir.printer import text
        >>> from fxcache.ir.statements import Call, Ref
        >>> text(Call("aten.add", (Ref("x"), Ref("previous_0", state=True)), {}))
        'x + state.previous_0'
    """
    if isinstance(value, Ref):
        return f"state.{value.name}" if value.state else value.name
    if isinstance(value, Call):
        if value.target == "getitem" and len(value.args) == 2:
            return f"{text(value.args[0])}[{text(value.args[1])}]"
        if _is_infix(value):
            left, right = (
                f"({text(a)})" if isinstance(a, Call) and _is_infix(a) else text(a) for a in value.args
            )
            return f"{left} {INFIX[value.target.removeprefix('aten.')]} {right}"
        return f"{value.target}({', '.join(_arguments(value))})"
    if isinstance(value, Values):
        return ", ".join(map(text, value))
    if isinstance(value, (list, tuple)):
        inner = ", ".join(map(text, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {text(v)}" for k, v in value.items()) + "}"
    return re.sub(r"\s+", " ", repr(value))


def _arguments(value: Call) -> list[str]:
    return [*map(text, value.args), *(f"{k}={text(v)}" for k, v in value.kwargs.items())]
