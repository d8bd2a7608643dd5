"""Expressions that sympy evaluates from text while a forward is traced are no code of the model.

Their names (`E`, `Symbol`) were taken for globals that the model reads, and sympy's own memos for state that
it leaves written: PixArt, whose sizes sympy cancels, could not be exported for `E`'s assumptions.
"""

from __future__ import annotations

import sympy
import torch
from torch import Tensor

import fxcache
from fxcache.environment.executed_code import ExecutedCode
from tests.behaviour.faults.base import NEVER, Base, build, sample
from tests.behaviour.zoo import find


def test_text_that_sympy_evaluates_is_not_noted() -> None:
    code = ExecutedCode()
    with code.watching():
        assert sympy.sympify("E + 1 - E") == 1
    assert not [c.co_names for c, names in code.seen.items() if "__name__" not in names]


def test_a_graph_module_is_noted_although_its_code_names_no_module() -> None:
    graph = torch.fx.symbolic_trace(build(Base))
    code = ExecutedCode()
    with code.watching():
        graph(*sample()[0])
    assert type(graph).forward.__code__ in code.seen


def test_sizes_that_sympy_reads_from_text_leave_nothing_written() -> None:
    class Reads(Base):
        """Halves its tokens by a rule that it has as text."""

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            half = int(sympy.sympify("floor(E)"))
            return super().forward(x / half, timestep)

    model = build(Reads)
    cached = fxcache.transform(model, NEVER)
    x, t = sample()[0]
    specialization, _ = cached.specialization_for({"x": x, "timestep": t})
    assert specialization.program.capture.finals == ()
    with torch.no_grad():
        assert torch.equal(cached(x, t), model(x, t))


def test_the_model_that_was_refused() -> None:
    model, inputs = find("PixArtTransformer2DModel").build()
    cached = fxcache.transform(model, NEVER)
    specialization, _ = cached.specialization_for({**inputs, "return_dict": False})
    assert specialization.program.capture.finals == ()
