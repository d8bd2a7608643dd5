"""Each forecaster on each trajectory, against exact answers in rational numbers.

The published formulas stand here a second time, as definitions: TaylorSeer's differences by recursion,
Newton's polynomial in Lagrange's form, HiCache's Hermite polynomials written out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from math import factorial, prod

import pytest
import torch

from fxcache.forecasters import FORECASTERS, Forecaster, HiCache, Newton, Reuse, Spectrum, TaylorSeer, Times
from fxcache.forecasters.base import PAST
from fxcache.ops.history import by_slot, remember, weighted_sum

Curve = Callable[[Fraction], Fraction]

CURVES: dict[str, Curve] = {
    "constant": lambda t: Fraction(3),
    "linear": lambda t: 2 - 3 * t,
    "quadratic": lambda t: 1 + t - 2 * t**2,
    "cubic": lambda t: 2 - t + 5 * t**2 + 3 * t**3,
    "quartic": lambda t: 1 + t**2 - 2 * t**4,
    "exponential": lambda t: Fraction(2) ** int(t),
}
DEGREES = {"constant": 0, "linear": 1, "quadratic": 2, "cubic": 3, "quartic": 4}
LEADING = {"constant": 3, "linear": -3, "quadratic": -2, "cubic": 3, "quartic": -2}

POSITIONS: dict[str, tuple[int, ...]] = {
    "even": (0, 1, 2, 3, 4, 5),
    "even by two": (0, 2, 4, 6, 8),
    "uneven": (0, 1, 3, 4, 8, 9),
    "falling": (12, 11, 8, 6, 5),
}
AHEAD = (1, 2, 5)
SCALE = Fraction(3, 4)

METHODS: dict[str, Forecaster] = {
    "Reuse": Reuse(),
    **{f"TaylorSeer {n}": TaylorSeer(order=n) for n in (1, 2, 3)},
    **{f"Newton {n}": Newton(order=n) for n in (1, 2, 3)},
    **{f"HiCache {n}": HiCache(order=n, scale=float(SCALE)) for n in (1, 2, 3)},
}


def exact_degree(method: Forecaster) -> int:
    """The highest degree of which every polynomial is reproduced, says the method's description."""
    return {Reuse: 0, TaylorSeer: 1, Newton: method.order, HiCache: 0}[type(method)]


def ahead(positions: tuple[int, ...]) -> Iterator[int]:
    """Where to forecast from the last of `positions`, in their direction."""
    direction = 1 if positions[-1] >= positions[0] else -1
    return (positions[-1] + direction * step for step in AHEAD)


def forecast(method: Forecaster, curve: Curve, positions: tuple[int, ...], now: int) -> float:
    """What the library predicts at `now` from float64 values at `positions`."""
    history = torch.zeros(method.snapshots, 1, dtype=torch.float64)
    for count, t in enumerate(positions):
        value = torch.tensor([float(curve(Fraction(t)))], dtype=torch.float64)
        remember(history, value, torch.tensor(count))
    past = (*reversed(positions), *[0] * PAST)[:PAST]
    computed = torch.tensor(len(positions), dtype=torch.float64)
    at64, *past64 = torch.tensor([now, *past], dtype=torch.float64)
    weights = method.weights(Times(at64, tuple(past64), computed))
    return weighted_sum(history, by_slot(weights, computed)).item()


def difference(curve: Curve, positions: tuple[int, ...], order: int) -> Fraction:
    """TaylorSeer's finite difference at the last of `positions`; 0 where too few are behind it."""
    if len(positions) <= order:
        return Fraction(0)
    if order == 0:
        return curve(Fraction(positions[-1]))
    rise = difference(curve, positions, order - 1) - difference(curve, positions[:-1], order - 1)
    return rise / (positions[-1] - positions[-2])


def hermite(order: int, x: Fraction) -> Fraction:
    return (Fraction(1), 2 * x, 4 * x**2 - 2, 8 * x**3 - 12 * x)[order]


def published(method: Forecaster, curve: Curve, positions: tuple[int, ...], now: int) -> Fraction:
    """What the method's formula says, exactly."""
    if isinstance(method, Newton):
        nodes = positions[-(method.order + 1) :]
        return sum(
            curve(Fraction(t)) * prod(Fraction(now - u, t - u) for u in nodes if u != t) for t in nodes
        ) + Fraction(0)
    elapsed = Fraction(now - positions[-1])

    def weight(order: int) -> Fraction:
        if isinstance(method, HiCache):
            return SCALE**order * hermite(order, SCALE * elapsed) / factorial(order)
        return elapsed**order / factorial(order)

    return sum(
        (difference(curve, positions, i) * weight(i) for i in range(method.order + 1)), start=Fraction(0)
    )


def close(found: float, wanted: Fraction, around: Fraction = Fraction(1)) -> bool:
    """Equal but for float64 rounding in numbers as large as `around`."""
    return abs(found - float(wanted)) <= 1e-12 * max(1.0, abs(float(wanted)), abs(float(around)))


def test_every_forecaster_is_in_the_table() -> None:
    exact = set(FORECASTERS) - {Spectrum}  # a regression: `test_spectrum.py`
    assert {type(method) for method in METHODS.values()} == exact
    for kind in exact:
        orders = {m.order for m in METHODS.values() if type(m) is kind}
        assert orders == ({0} if kind is Reuse else set(range(kind.least_order(), PAST)))


@pytest.mark.parametrize("places", POSITIONS)
@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("method", METHODS)
def test_a_forecast_is_the_published_one(method: str, curve: str, places: str) -> None:
    """From the first computed step on, when differences are still missing."""
    for computed in range(1, len(POSITIONS[places]) + 1):
        positions = POSITIONS[places][:computed]
        for now in ahead(positions):
            wanted = published(METHODS[method], CURVES[curve], positions, now)
            found = forecast(METHODS[method], CURVES[curve], positions, now)
            largest = max(abs(CURVES[curve](Fraction(t))) for t in (now, *positions))
            assert close(found, wanted, largest), (positions, now, found, wanted)


@pytest.mark.parametrize("places", POSITIONS)
@pytest.mark.parametrize("curve", DEGREES)
@pytest.mark.parametrize("method", METHODS)
def test_polynomials_up_to_the_methods_degree_are_reproduced_and_no_others(
    method: str, curve: str, places: str
) -> None:
    positions = POSITIONS[places]
    reproduced = [
        close(forecast(METHODS[method], CURVES[curve], positions, now), CURVES[curve](Fraction(now)))
        for now in ahead(positions)
    ]
    assert all(reproduced) == (DEGREES[curve] <= exact_degree(METHODS[method]))


@pytest.mark.parametrize("places", POSITIONS)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_newton_misses_one_degree_more_by_the_product_of_the_distances(order: int, places: str) -> None:
    """The remainder of interpolation: the leading coefficient times the distances from all nodes."""
    curve = next(name for name, degree in DEGREES.items() if degree == order + 1)
    positions = POSITIONS[places]
    for now in ahead(positions):
        remainder = LEADING[curve] * prod(now - t for t in positions[-(order + 1) :])
        truth = CURVES[curve](Fraction(now))
        assert close(forecast(Newton(order=order), CURVES[curve], positions, now), truth - remainder, truth)


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("order", [2, 3])
def test_taylorseer_misses_a_square_by_the_step_times_the_distance(order: int, step: int) -> None:
    """A backward difference is the slope half a step ago."""
    positions = tuple(range(0, 6 * step, step))
    for now in ahead(positions):
        elapsed = now - positions[-1]
        truth = CURVES["quadratic"](Fraction(now))
        wanted = truth - LEADING["quadratic"] * step * elapsed
        assert close(forecast(TaylorSeer(order=order), CURVES["quadratic"], positions, now), wanted, truth)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_taylorseer_sums_the_series_of_an_exponential_with_half_its_rate(order: int) -> None:
    """At steps of one the differences of 2^t halve from rung to rung."""
    for now in ahead(POSITIONS["even"]):
        elapsed = Fraction(now - 5)
        wanted = 32 * sum((elapsed / 2) ** i / factorial(i) for i in range(order + 1))
        found = forecast(TaylorSeer(order=order), CURVES["exponential"], POSITIONS["even"], now)
        assert close(found, Fraction(wanted))


@pytest.mark.parametrize("places", POSITIONS)
@pytest.mark.parametrize("scale", [Fraction(1, 4), Fraction(1, 2), Fraction(1)])
def test_hicache_of_order_one_goes_on_along_a_line_that_is_as_steep_as_its_scale_says(
    scale: Fraction, places: str
) -> None:
    positions = POSITIONS[places]
    for now in ahead(positions):
        last = CURVES["linear"](Fraction(positions[-1]))
        wanted = last + 2 * scale**2 * -3 * (now - positions[-1])
        found = forecast(HiCache(order=1, scale=float(scale)), CURVES["linear"], positions, now)
        assert close(found, wanted)
