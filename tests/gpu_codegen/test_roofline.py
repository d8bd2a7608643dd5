"""Kernels, bytes and FLOPs are counted in the code that is generated for a GPU."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.roofline import count_all, counted_table, flux
from fxcache.backends.absent_gpu import target_gpu
from fxcache.benchmark.document import IMAGE_TOKENS, TEXT_TOKENS
from fxcache.torch_private import FakeTensorMode, launches_of

pytestmark = pytest.mark.gpu_codegen
WIDTH, BYTES = 3072, 2


def test_flops_are_those_that_torch_counts_and_attention_moves_four_tensors() -> None:
    with target_gpu("sm_90"):
        with FakeTensorMode(allow_non_fake_inputs=True):
            model, arguments = flux(dual=1, single=1)
        launches = launches_of(model, **arguments)
        with (
            torch.no_grad(),
            FakeTensorMode(allow_non_fake_inputs=True),
            FlopCounterMode(display=False) as flops,
        ):
            model(**arguments)
    assert sum(n.flops for n in launches) == flops.get_total_flops()
    attention = 4 * (IMAGE_TOKENS + TEXT_TOKENS) * WIDTH * BYTES
    assert sum(n.bytes == attention and n.library for n in launches) == 2


@pytest.mark.full
def test_a_hit_launches_little_more_than_the_least() -> None:
    with target_gpu("sm_90"):
        counted = {step.name: step.launches for step in count_all(dual=9, single=4)}
    assert len(counted["hit, plan"]) < 10
    least, hit = counted["minimum of a hit, F1"], counted["hit, F1"]
    assert len(hit) < 1.6 * len(least)
    assert sum(n.flops for n in hit) < 1.1 * sum(n.flops for n in least)
    assert len(counted_table([]).splitlines()) == 2
