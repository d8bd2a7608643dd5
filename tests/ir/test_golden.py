"""The printed graph of FLUX, kept in a file: what the compiler does, and every change of it, in view.

`pytest tests/ir/test_golden.py --refresh-golden` writes it anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import fxcache
from tests.behaviour.zoo import find

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(
    ("name", "config"),
    [("flux_taylorseer", "F1B1_W4M0MC3_T1O1_R0.12"), ("flux_reuse", "F5B0_W8M0MC0_T0O1_R0.08")],
)
def test_the_graph_of_flux(name: str, config: str, request: pytest.FixtureRequest) -> None:
    model, inputs = find("FluxTransformer2DModel").build()
    text = str(fxcache.transform(model, config, example_inputs={**inputs, "return_dict": False}).graph)
    path = GOLDEN / f"{name}.txt"
    if request.config.getoption("--refresh-golden"):
        path.write_text(text)
    assert text == path.read_text()
