"""Rows fitted by least squares, in a simulated closed loop: later rows see the errors of earlier ones.

Nothing here holds a picture. A sampler adds outputs up, so every error is a sum of vectors that were seen in
a pass: the differences d_i of the latents from those of the plain run, and the outputs y_(j,s) of step j
and stream s. Errors are kept as coefficients of these, and inner products come from one matrix a run.

Besides these there are vectors that nobody saw: where latents are off, a model returns something else, of
which only the part along the error (the echo) can be told beforehand. The rest (the scatter) has a known
size and an unknown direction. Without it early errors look as harmless as late ones: of 24 schedules at 2.5x
the one that the fit liked best left 6.5 dB more than it said, and what it said of them all had little to do
with what they gave at guidance 4 (correlation 0.3; with scatter 0.9).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .response import Response

Rows = tuple[tuple[float, ...], ...]
RIDGE = 1e-4  # keeps weights that the runs say little of near their prior
# Of a run: how far apart the scatters of two steps are still much alike. On the embedded model it is 0.1 to
# 0.15; longer counts early errors for more: such plans bear other guidance better, and no worse their own.
MEMORY = 0.3


@dataclass(frozen=True)
class Pass:
    """What runs did when `rows` were played, as inner products.

    starts: the steps at which a history begins, empty. streams: calls of a step.
    responses: of each step; None where the next latents do not follow from it, as after the last.
    products: [runs, n + n * streams, same] float64, means over elements of the products of the n differences
        of latents (plain - seen) and of the outputs, those of a step together; 0 where none was computed.
    echoes: of each step, how an error of its latents changes its outputs, as a factor; 0 for none.
    scatters: of each step, how large what else such an error changes in them is, as a factor.

    Example:
        Two steps of one run of which the plain model returns the same.

        >>> import torch
        >>> from fxcache.plans.fit import Pass, products
        >>> from fxcache.plans.response import Response
        >>> seen = products(torch.zeros(2, 5), torch.ones(2, 1, 5))
        >>> plain = Pass(((1.0,), (1.0,)), (0,), 1, (Response(1, (-0.5,)), None), seen[None])
        >>> plain.steps
        2
    """

    rows: Rows
    starts: tuple[int, ...]
    streams: int
    responses: tuple[Response | None, ...]
    products: Tensor
    echoes: tuple[float, ...] = ()
    scatters: tuple[float, ...] = ()

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self.rows)


@dataclass(frozen=True)
class Fitted:
    """Rows, and what they leave.

    errors: [runs] mean squares of the difference from the plain run in the last latents that the model sees.

    Example:
        >>> import torch
        >>> from fxcache.plans.fit import Fitted
        >>> Fitted(rows=((1.0, 0.0),), errors=torch.zeros(3)).errors.shape
        torch.Size([3])
    """

    rows: Rows
    errors: Tensor


def products(differences: Tensor, outputs: Tensor) -> Tensor:
    """One run's matrix for `Pass.products`, of differences [n, elements] and outputs [n, streams, elements].

    Example:
        >>> import torch
        >>> from fxcache.plans.fit import products
        >>> products(torch.ones(1, 4), torch.full((1, 1, 4), 2.0))
        tensor([[1., 2.],
                [2., 4.]], dtype=torch.float64)
    """
    vectors = torch.cat((differences, outputs.flatten(0, 1))).double()
    return vectors @ vectors.T / vectors.shape[1]


def fit(seen: Pass, computed: Sequence[int], prior: Rows, ridge: float = RIDGE) -> Fitted:
    """The rows of a schedule that bring the runs of `seen` nearest to the plain ones, step by step.

    The row of a step that is not computed, and of the first computed one after such steps, is fitted so that
    the next latents are as near as they can be to the plain run's. Other steps are given as they are.

    Args:
        computed: the steps that are. Each must have been in `seen`.
        prior: rows of the same schedule, which weights keep to where the runs leave them open. Their length
            says how many values a step is made of.
        ridge: how much they are kept there, as a share of the mean square of what they weigh.

    Example:
        Outputs that rise by 1 a step: the third is twice the second less the first.

        >>> import torch
        >>> from fxcache.plans.fit import Pass, fit, products
        >>> from fxcache.plans.response import Response
        >>> from fxcache.plans.formula import weights
        >>> outputs = torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None] * torch.randn(4, 1, 6)[:1]
        >>> seen = products(torch.zeros(4, 6), outputs)
        >>> plain = Pass(((1.0,),) * 4, (0,), 1, (*[Response(1, (-0.2,))] * 3, None), seen[None])
        >>> row = fit(plain, (0, 1, 3), weights(4, (0, 1, 3))).rows[2]
        >>> round(row[1] * 2 + row[2] * 1, 3)
        3.0
    """
    loop = _Loop(seen, set(computed), len(prior[0]) - 1)
    rows = []
    for step in range(seen.steps):
        terms, free = loop.terms(step)
        row = list(prior[step]) if free else [1.0] + [0.0] * (len(prior[0]) - 1)
        if free:
            target, parts = loop.target(step), torch.stack([loop.gained(step, t) for t in terms])
            used = row[:1] * loop.is_computed(step) + row[1:]
            start = torch.tensor(used[: len(terms)], dtype=torch.float64)
            found = _nearest(loop.inner.mean(0), parts, target, start, ridge).tolist()
            row = found if loop.is_computed(step) else [0.0, *found]
            row += [0.0] * (len(prior[0]) - len(row))
        loop.play(step, row)
        rows.append(tuple(row))
    return Fitted(tuple(rows), loop.final_errors())


def simulate(seen: Pass, rows: Rows) -> Tensor:
    """What rows would leave, as `Fitted.errors`.

    Example:
        >>> import torch
        >>> from fxcache.plans.fit import Pass, products, simulate
        >>> from fxcache.plans.response import Response
        >>> seen = products(torch.zeros(2, 5), torch.ones(2, 1, 5))
        >>> plain = Pass(((1.0, 0.0),) * 2, (0,), 1, (Response(1, (-0.5,)), None), seen[None])
        >>> simulate(plain, ((2.0, 0.0), (1.0, 0.0)))
        tensor([0.2500], dtype=torch.float64)
    """
    loop = _Loop(seen, {step for step, row in enumerate(rows) if row[0] != 0}, len(rows[0]) - 1)
    for step, row in enumerate(rows):
        loop.play(step, row)
    return loop.final_errors()


class _Loop:
    """A sampling, as coefficients.

    error: latents less those seen, at the step to come; before: a step before that.
    inner: [runs, size, size] inner products of what coefficients are of: differences, outputs, scatters.
    """

    def __init__(self, seen: Pass, computed: set[int], values: int) -> None:
        self.seen, self.computed, self.values = seen, computed, values
        self.past, self.seen_past = list[int](), list[int]()
        self.seen_size = seen.products.shape[-1]
        scattered = seen.steps * seen.streams if seen.scatters else 0
        self.inner = torch.nn.functional.pad(seen.products, (0, scattered, 0, scattered))
        self.sizes = torch.zeros(len(seen.products), scattered, dtype=torch.float64)  # of scatters
        self.alike = _alike(seen) if scattered else torch.zeros(0, 0)
        self.zero = torch.zeros(self.inner.shape[-1], dtype=torch.float64)
        self.error = self.before = self.zero
        self.deviation = [self.zero] * seen.streams  # given - seen, of the step before
        self.errors = dict[int, Tensor]()

    def is_computed(self, step: int) -> bool:
        return step in self.computed

    def terms(self, step: int) -> tuple[list[int], bool]:
        """The steps whose values a step may be made of, and whether its row is to be fitted."""
        if step not in self.errors:
            self.errors[step] = self.error
            if self.seen.scatters and self.is_computed(step):
                self.scatter(step)
        if step in self.seen.starts:
            self.past, self.seen_past = [], []
        recent = self.past[: self.values]
        own = [step] if self.is_computed(step) else []
        after_hits = bool(self.past) and self.past[0] < step - 1
        free = self.seen.responses[step] is not None and (not own or after_hits)
        return [*own, *recent], free

    def scatter(self, step: int) -> None:
        """Say how large the scatter of a step is, whose error is known now."""
        error = self.errors[step]
        size = torch.einsum("i,rij,j->r", error, self.inner, error).clamp_min(0).sqrt()
        streams = self.seen.streams
        self.sizes[:, step * streams : (step + 1) * streams] = self.seen.scatters[step] * size[:, None]
        own = slice(self.seen_size, None)
        self.inner[:, own, own] = self.sizes[:, :, None] * self.sizes[:, None, :] * self.alike

    def unit(self, place: int) -> Tensor:
        found = self.zero.clone()
        found[place] = 1.0
        return found

    def difference(self, step: int) -> Tensor:
        """Of latents that were seen from the plain run's."""
        return self.unit(step)

    def seen_output(self, step: int, stream: int) -> Tensor:
        return self.unit(self.seen.steps + step * self.seen.streams + stream)

    def gained(self, step: int, source: int) -> Tensor:
        """What a step adds to the latents when it is given the outputs of `source`."""
        response = self.seen.responses[step]
        assert response is not None
        return sum((g * self.output(source, s) for s, g in enumerate(response.gains)), self.zero)

    def output(self, step: int, stream: int) -> Tensor:
        """Of a computed step in this loop: as it was seen, with echo and scatter of its error."""
        found = self.seen_output(step, stream)
        if self.seen.echoes:
            found = found + self.seen.echoes[step] * self.errors[step]
        if self.seen.scatters:
            found[self.seen_size + step * self.seen.streams + stream] += 1.0
        return found

    def target(self, step: int) -> Tensor:
        """What a step should add for the next latents to be the plain run's."""
        response = self.seen.responses[step]
        assert response is not None
        given = sum((g * self.given(step, s) for s, g in enumerate(response.gains)), self.zero)
        return self.difference(step + 1) - self.carried(response) + given

    def carried(self, response: Response) -> Tensor:
        """The error of the next latents if this step gives what was seen."""
        lagged = zip(response.lagged_gains, self.deviation, strict=False)
        found = response.own * self.error + response.lagged_own * self.before
        return sum((g * d for g, d in lagged), found)

    def given(self, step: int, stream: int) -> Tensor:
        """What was given in the pass that was seen."""
        sources = [step, *self.seen_past]
        row = self.seen.rows[step]
        return sum(
            (w * self.seen_output(j, stream) for w, j in zip(row, sources, strict=False) if w), self.zero
        )

    def play(self, step: int, row: Sequence[float]) -> None:
        """Go on to the next step."""
        self.terms(step)
        sources = [step, *self.past]
        deviation = []
        for stream in range(self.seen.streams):
            new = sum(
                (w * self.output(j, stream) for w, j in zip(row, sources, strict=False) if w), self.zero
            )
            deviation.append(new - self.given(step, stream))
        response = self.seen.responses[step]
        if response is not None:
            moved = zip(response.gains, deviation, strict=False)
            after = sum((g * d for g, d in moved), self.carried(response))
            self.before, self.error = self.error, after
        elif step < self.seen.steps - 1:
            self.before = self.error = self.zero
        self.deviation = deviation
        if row[0] != 0:
            self.past.insert(0, step)
        if self.seen.rows[step][0] != 0:
            self.seen_past.insert(0, step)

    def final_errors(self) -> Tensor:
        left = self.error - self.difference(self.seen.steps - 1)
        return torch.einsum("i,rij,j->r", left, self.inner, left).clamp_min(0)


def _alike(seen: Pass) -> Tensor:
    """How alike scatters are, by step and stream: the error behind them is much the same for a while."""
    times = torch.arange(seen.steps, dtype=torch.float64).repeat_interleave(seen.streams) / seen.steps
    return torch.exp(-(times[:, None] - times).abs() / MEMORY)


def _nearest(inner: Tensor, parts: Tensor, target: Tensor, start: Tensor, ridge: float) -> Tensor:
    """Weights [T] of `parts` [T, N] whose sum is nearest to `target` [N]; `start` where that is open."""
    left = parts @ inner
    system, right = left @ parts.T, left @ (target - start @ parts)
    scale = system.diagonal().mean()
    if scale == 0:
        return start
    system = system + ridge * scale * torch.eye(len(parts), dtype=torch.float64)
    return start + torch.linalg.solve(system, right)
