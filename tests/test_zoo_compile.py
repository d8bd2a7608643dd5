"""Every class goes through the compiler whole: no graph break, no recompilation, the same hits and results.

The graphs are taken and made functional as for TorchInductor, and then run by PyTorch: generating code for
every class takes hours here. `tests/test_compile.py` generates it for some.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest
import torch
from torch._dynamo.utils import counters

import fxcache
from fxcache.backends.inductor import Inductor, Mode
from tests.zoo import ALL_CASES, ZooCase
from tests.zoo.nested import tensors_in
from tests.zoo.tiers import REFUSED, over
from tests.zoo.trajectory import trajectory

SETTING = "F1B0_W2M0MC2_T1O1_R1000"
STEPS = 6


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.full
@pytest.mark.parametrize(("mode", "expected"), [("fused", 3), ("single", 1)])
@over(ALL_CASES, but=tuple(REFUSED))
def test_every_class_compiles_whole(case: ZooCase, mode: str, expected: int) -> None:
    model, _ = case.build()
    eager = fxcache.transform(model, SETTING)
    compiled = eager.lowered(Inductor(cast(Mode, mode), False, {"backend": "aot_eager"}))
    for _ in range(2):
        with torch._dynamo.config.patch(error_on_recompile=True), torch.no_grad():
            for inputs in trajectory(case, STEPS):
                found, wanted = tensors_in(compiled(**inputs)), tensors_in(eager(**inputs))
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    hits = eager.stats()["default"].hits
    assert any(hits)
    assert compiled.stats()["default"].hits == hits
    assert counters["stats"]["unique_graphs"] <= expected
    assert not counters["graph_break"]
