"""Every class goes through the compiler whole: no graph break, no recompilation, the same hits and results.

The graphs are taken and made functional as for TorchInductor, and then run by PyTorch: generating code for
every class takes hours here. `tests/backends/test_compile.py` generates it for some.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager
from torch._dynamo.utils import counters

import fxcache
from fxcache import CachedTransformer
from fxcache.backends.inductor import Inductor, Mode
from fxcache.errors import CompilationError
from tests.behaviour.zoo import ALL_CASES, ZooCase, find
from tests.behaviour.zoo.nested import tensors_in
from tests.behaviour.zoo.tiers import REFUSED, UNCOMPILABLE, over
from tests.behaviour.zoo.trajectory import trajectory

# a model's own memoised helper, which the compiler traces through
pytestmark = pytest.mark.filterwarnings(
    "ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning"
)
SETTING = "F1B0_W2M0MC2_T1O1_R1000"
STEPS = 6


@pytest.fixture(autouse=True)
def fresh_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def without_code(graph: Any, inputs: Any, **_: Any) -> Any:
        return aot_eager(graph, inputs)

    monkeypatch.setattr("fxcache.backends.inductor_cond.compile_fx", without_code)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _compiled(eager: CachedTransformer, mode: str, **options: Any) -> CachedTransformer:
    return eager.lowered(Inductor(cast(Mode, mode), None, {"backend": "aot_eager", **options}))


def _assert_alike(case: ZooCase, mode: str, fullgraph: bool = True) -> None:
    """Two trajectories."""
    model, _ = case.build()
    eager = fxcache.transform(model, SETTING)
    compiled = _compiled(eager, mode, fullgraph=fullgraph)
    calls = trajectory(case, STEPS) * 2
    with torch.no_grad():
        expected = [tensors_in(eager(**inputs)) for inputs in calls]
    compiled.prepare(calls[0])
    counters.clear()  # flexible attention is compiled by PyTorch itself
    with torch._dynamo.config.patch(error_on_recompile=fullgraph), torch.no_grad():
        for inputs, result in zip(calls, expected, strict=True):
            torch.testing.assert_close(tensors_in(compiled(**inputs)), result, rtol=1e-4, atol=1e-4)
    hits = eager.stats()["default"].hits
    assert any(hits)
    assert compiled.stats()["default"].hits == hits


@pytest.mark.full
@pytest.mark.parametrize(("mode", "expected"), [("fused", 3), ("single", 1)])
@over(ALL_CASES, but=(*REFUSED, *UNCOMPILABLE))
def test_every_class_compiles_whole(case: ZooCase, mode: str, expected: int) -> None:
    _assert_alike(case, mode)
    assert counters["stats"]["unique_graphs"] <= expected
    assert not counters["graph_break"]


@pytest.mark.full
@pytest.mark.parametrize("name", UNCOMPILABLE)
def test_what_does_not_compile_whole_says_why_and_compiles_with_breaks(name: str) -> None:
    case = find(name)
    model, inputs = case.build()
    eager = fxcache.transform(model, SETTING)
    for mode, advice in (("single", 'mode="fused"'), ("fused", "fullgraph=False")):
        with pytest.raises(CompilationError, match=rf"(?s){UNCOMPILABLE[name]}.*{advice}"):
            _compiled(eager, mode)(**inputs)
    torch._dynamo.reset()
    _assert_alike(case, "fused", fullgraph=False)
