"""Hypothesis strategies for cache configs."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from fxcache import CacheConfig, HiCache, Newton, Reuse, TaylorSeer

thresholds = st.one_of(st.just(0.0), st.floats(1e-4, 2.0), st.just(1e6))
limits = st.one_of(st.none(), st.integers(1, 6))
masks = st.one_of(st.none(), st.lists(st.sampled_from((0, 1)), min_size=1, max_size=14).map(tuple))
taylor = st.one_of(st.none(), st.builds(TaylorSeer, order=st.integers(1, 3)))
any_forecaster = st.one_of(
    taylor,
    st.builds(Reuse),
    st.builds(
        TaylorSeer,
        order=st.integers(1, 3),
        calibrate=st.sampled_from(("residual", "hidden_states")),
        distance=st.sampled_from(("step", "timestep")),
    ),
    st.builds(Newton, order=st.integers(1, 3)),
    st.builds(HiCache, order=st.integers(1, 2), scale=st.sampled_from((0.5, 0.7, 1.0))),
)


@st.composite
def settings(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of a config that are state: one graph serves all of them."""
    mask = draw(masks)
    return {
        "max_warmup_steps": draw(st.integers(0, 6)),
        "warmup_interval": draw(st.integers(1, 3)),
        "max_cached_steps": draw(limits),
        "max_continuous_cached_steps": draw(limits),
        "residual_diff_threshold": draw(thresholds),
        "max_accumulated_residual_diff": draw(st.one_of(st.none(), st.floats(0.01, 3.0))),
        "steps_mask": mask,
        "steps_mask_policy": draw(st.sampled_from(("dynamic", "static"))) if mask else "dynamic",
    }


@st.composite
def configs(draw: st.DrawFn, blocks: int = 4, forecaster: st.SearchStrategy = taylor) -> CacheConfig:  # type: ignore[type-arg]
    """Configs that are valid for a model of `blocks` blocks."""
    fn = draw(st.integers(1, blocks))
    return CacheConfig(
        fn_compute_blocks=fn,
        bn_compute_blocks=draw(st.integers(0, blocks - fn)),
        forecaster=draw(forecaster),
        **draw(settings()),
    )
