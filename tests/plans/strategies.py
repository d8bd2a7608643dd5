"""Plans, drawn by hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from fxcache import Plan

numbers = st.floats(-2, 2, allow_subnormal=False)
some = numbers.filter(lambda w: abs(w) > 0.01)


@st.composite
def plans(draw: st.DrawFn, least: int = 1, most: int = 7, unit: bool = False, timed: bool = True) -> Plan:  # type: ignore[type-arg]
    """Any plan, or one that computes every step and corrects none (`unit`)."""
    steps = draw(st.integers(least, most))
    values = draw(st.integers(1, 4))
    flags = [True] * steps if unit else [True, *(draw(st.booleans()) for _ in range(steps - 1))]
    rows: list[tuple[float, ...]] = []
    for step, computed in enumerate(flags):
        known = min(sum(flags[:step]), values)
        row = [0.0] * (values + 1)
        if unit:
            row[0] = 1.0
        elif computed:
            row[0] = draw(st.just(1.0) | some)
            row[1 : known + 1] = [draw(st.just(0.0) | numbers) for _ in range(known)]
        else:
            row[1 : known + 1] = [draw(some), *(draw(numbers) for _ in range(known - 1))]
        rows.append(tuple(row))
    times = None
    if timed:
        gaps = draw(st.lists(st.integers(1, 200), min_size=steps, max_size=steps))
        times = tuple(float(sum(gaps[i:])) for i in range(steps))
    computed_steps = tuple(i for i, flag in enumerate(flags) if flag)
    return Plan(steps=steps, computed=computed_steps, weights=tuple(rows), timesteps=times)
