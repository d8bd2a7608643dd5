"""What `bench.roofline` calculates from counts; tests/gpu_codegen has the counts."""

from __future__ import annotations

import pytest

from bench.roofline import Card, predict
from fxcache.benchmark.document import read_document
from fxcache.torch_private import Launch

CARD = Card("a card", flops=100.0, bytes=10.0)


def test_a_kernel_takes_what_takes_longer() -> None:
    product, copy = Launch(True, bytes=10, flops=400), Launch(False, bytes=20, flops=0)
    assert CARD.seconds([product]) == 4.0 and CARD.seconds([copy]) == 2.0
    assert CARD.seconds([product, copy]) == 6.0
    assert CARD.bound_by_memory([product, copy]) == pytest.approx(1 / 3)


def test_the_document_s_latencies_follow_from_its_flops() -> None:
    """A fixed part and a rate say every row within 2%; FLOPs alone promise far too much."""
    line, predictions = predict()
    assert len(predictions) == len(read_document()["rows"]) == 14
    assert line.fixed == pytest.approx(6.67, abs=0.01)
    assert line.rate == pytest.approx(103e12, rel=0.001)
    for row in predictions:
        assert row.line == pytest.approx(row.measured, rel=0.02)
    fastest = next(p for p in predictions if p.name == "F1B0_W4M0MC4_T0O1_R0.12")
    assert fastest.measured == 19.99 and fastest.alone == pytest.approx(16.03, abs=0.01)
