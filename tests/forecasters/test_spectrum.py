"""Spectrum against the ridge regression that it is, solved by numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fxcache
from fxcache import Spectrum
from fxcache.errors import ConfigError
from fxcache.forecasters import Times
from fxcache.forecasters.base import PAST
from tests.toy import latents, toy


def ridge(method: Spectrum, positions: list[float], now: float) -> np.ndarray:
    """Weights of the values at `positions`, the latest first, by the primal formula."""

    def basis(t: float) -> np.ndarray:
        x = 2 * t / method.horizon - 1
        return np.array([np.polynomial.chebyshev.Chebyshev.basis(m)(x) for m in range(method.degree + 1)])

    rows = np.stack([basis(t) for t in positions])
    gram = rows.T @ rows + method.ridge * np.eye(method.degree + 1)
    fitted = basis(now) @ np.linalg.solve(gram, rows.T)
    line = np.zeros(len(positions))
    line[0] = 1.0
    if len(positions) > 1:
        slope = (now - positions[0]) / (positions[0] - positions[1])
        line[:2] = 1 + slope, -slope
    return method.blend * fitted + (1 - method.blend) * line


@given(
    st.integers(1, 3),
    st.integers(1, 8),
    st.sampled_from([1e-3, 0.1, 1.0]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.lists(st.integers(0, 49), min_size=1, max_size=6, unique=True),
    st.integers(1, 6),
)
def test_its_weights_are_those_of_ridge_regression(
    order: int, degree: int, strength: float, blend: float, places: list[int], ahead: int
) -> None:
    method = Spectrum(order=order, degree=degree, ridge=strength, blend=blend)
    positions = [float(p) for p in sorted(places, reverse=True)]
    now = positions[0] + ahead
    past = (positions + [7e300] * PAST)[:PAST]
    computed = torch.tensor(len(positions), dtype=torch.float64)
    at, *known = torch.tensor([now, *(p if p < 1e300 else 0.0 for p in past)], dtype=torch.float64)
    weights = method.weights(Times(at, tuple(known), computed)).numpy()
    window = positions[: order + 1]
    np.testing.assert_allclose(weights[: len(window)], ridge(method, window, now), rtol=1e-7, atol=1e-8)
    assert not weights[len(window) :].any()


@pytest.mark.parametrize(
    "change", [{"degree": 0}, {"degree": 9}, {"ridge": 1e-4}, {"blend": 1.5}, {"horizon": 0.0}, {"order": 0}]
)
def test_what_cannot_work_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Spectrum(**change)  # type: ignore[arg-type]


def test_it_forecasts_in_the_graph() -> None:
    config = fxcache.CacheConfig(
        fn_compute_blocks=0,
        steps_mask="110101",
        steps_mask_policy="static",
        forecaster=Spectrum(),
        level="output",
    )
    model = toy()
    cached = fxcache.transform(model, config)
    outputs: list[torch.Tensor] = []
    for i, x in enumerate(latents(6, 0)):
        t = torch.tensor([1000.0 - i])
        with torch.no_grad():
            got = cached(x, t)
            if config.steps_mask is not None and config.steps_mask[i]:
                outputs.insert(0, model(x, t))
                assert torch.equal(got, outputs[0])
            else:
                positions = [float(p) for p in range(i) if config.steps_mask and config.steps_mask[p]][::-1]
                weights = ridge(Spectrum(), positions[:4], float(i))
                want = sum(w * y for w, y in zip(weights.tolist(), outputs, strict=False))
                torch.testing.assert_close(got, want)
