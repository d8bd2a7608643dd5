"""What is cached how: one setting for each thing that a mode has to get right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import fxcache
from fxcache import CacheConfig, TeaCache

STEPS = 10
MAIN = CacheConfig.from_string("F1B0_W2M0MC2_T1O1_R0.6")
NOTHING = MAIN.replace(residual_diff_threshold=0)
# The same graph, other settings: what `configure` exchanges.
OTHER = MAIN.replace(max_warmup_steps=3, max_continuous_cached_steps=1)


@dataclass(frozen=True)
class Setting:
    """config: makes it. contexts: those that a step is called in, in this order."""

    name: str
    config: Callable[[], CacheConfig]
    contexts: tuple[str, ...] = ("cond",)


def _output(**fields: object) -> CacheConfig:
    return CacheConfig.from_dict(
        {"level": "output", "max_warmup_steps": 2, "max_continuous_cached_steps": 2,
         "forecaster": {"name": "taylorseer", "order": 1}, **fields}
    )  # fmt: skip


def plan() -> CacheConfig:
    """A plan, by formula."""
    return CacheConfig.from_plans(fxcache.plan(STEPS, speedup=2))


def teacache() -> CacheConfig:
    """A policy that runs no block to decide."""
    return _output(fn_compute_blocks=0, policy=TeaCache(), residual_diff_threshold=0.4)


def feedback() -> CacheConfig:
    """The output cached, and what hits made wrong paid back."""
    return _output(fn_compute_blocks=1, residual_diff_threshold=0.6, feedback=True)


SETTINGS = (
    Setting("DBCache + TaylorSeer", lambda: MAIN),
    Setting("plan", plan),
    Setting("TeaCache", teacache),
    Setting("feedback", feedback),
    Setting("follower", lambda: MAIN.replace(follow={"uncond": "cond"}), ("cond", "uncond")),
    Setting("float8 history", lambda: MAIN.replace(history_dtype="float8")),
    Setting("offloaded history", lambda: MAIN.replace(history_offload=True)),
)
