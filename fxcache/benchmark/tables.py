"""The document's tables, in Markdown and as rows for the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .quality.catalogue import MEASURES, Measure
from .results import Results, Row
from .sweep import fewer_steps

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True)
class Table:
    """A title, column heads, and rows of cells already written out."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        return f"- {self.title}\n\n{grid(self.heads, self.rows)}\n"


def grid(heads: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown. Cells are written as text in one line, without the sign that ends a cell."""
    return "\n".join(map(_line, (heads, ["---"] * len(heads), *rows)))


def tables(results: Results) -> tuple[Table, ...]:
    """One table for each measure that the document has, one for the rest, one against plain steps."""
    own = [m for m in MEASURES if m.alone and results.measured(m.key)]
    shared = [m for m in MEASURES if not m.alone and results.measured(m.key)]
    found = [_table(results, (m,), NAMES[m.key]) for m in own]
    title = "Likeness to the uncached pictures, best first" if shared else "Cost, cheapest first"
    found.append(_table(results, shared, title))
    if results.measured("psnr") and any(row.equal for row in results.rows):
        found.append(_against_plain(results))
    return tuple(found)


NAMES = {"clip_score": "CLIP Score (↑)", "image_reward": "Image Reward (↑)"}


def _table(results: Results, measures: Sequence[Measure], title: str) -> Table:
    """In the document's form: baseline first, then best first."""
    unit, _ = flops_unit(results)
    heads = (
        "Config",
        *(_head(m) for m in measures),
        "Cached",
        "Latency(s)",
        "Latency(s)(↑)",
        unit,
        f"{unit}(↑)",
    )

    def order(row: Row) -> tuple[bool, float]:
        first = measures[0] if measures else None
        return (row is not results.baseline, -first.best * row.values[first.key] if first else row.flops or 0)

    rows = sorted(results.rows, key=order)
    return Table(title, heads, tuple((*_quality(row, measures), *_cost(results, row)) for row in rows))


def _head(measure: Measure) -> str:
    return measure.title if measure.alone else measure.arrow


def _quality(row: Row, measures: Sequence[Measure]) -> tuple[str, ...]:
    return (row.name, *(f"{row.values[m.key]:.{m.digits}f}" for m in measures))


def _cost(results: Results, row: Row) -> tuple[str, ...]:
    base = results.baseline
    cached = f"{row.cached_steps:.1f} of {row.steps}" if not row.plain else f"0 of {row.steps}"
    speed = (cached, f"{row.seconds:.3f}", f"{base.seconds / row.seconds:.2f}")
    if row.flops is None or base.flops is None:
        return (*speed, "", "")
    return (*speed, f"{row.flops / flops_unit(results)[1]:.2f}", f"{base.flops / row.flops:.2f}")


def _against_plain(results: Results) -> Table:
    """Every setting beside the plain model with as many steps as its FLOPs pay for."""
    unit, size = flops_unit(results)
    rows = []
    for row in results.rows:
        if row.equal is None or row.flops is None:
            continue
        plain = results.row(row.equal)
        gain, worst = (row.values[k] - plain.values[k] for k in ("psnr", "psnr_worst"))
        rows.append(
            (
                row.name,
                f"{row.flops / size:.2f}",
                f"{row.values['psnr']:.2f}",
                f"{plain.steps}",
                f"{(plain.flops or 0) / size:.2f}",
                f"{plain.values['psnr']:.2f}",
                f"{gain:+.2f}",
                f"{worst:+.2f}",
                *(_psnr(results, fewer_steps(plain.steps, solver).name) for solver in results.solvers),
            )
        )
    rows.sort(key=lambda cells: -float(cells[6]))
    heads = ("Config", unit, "PSNR", "plain steps", unit, "PSNR", "PSNR gained", "in the worst 5%")
    others = (f"PSNR of {solver}" for solver in results.solvers)
    return Table("Against fewer plain steps at equal FLOPs", (*heads, *others), tuple(rows))


def _psnr(results: Results, name: str) -> str:
    """That of a row, where there is one."""
    found = [row.values["psnr"] for row in results.rows if row.name == name]
    return f"{found[0]:.2f}" if found else ""


def flops_unit(results: Results) -> tuple[str, float]:
    """TFLOPs, or GFLOPs for a model too small for them."""
    return ("TFLOPs", TERA) if (results.baseline.flops or TERA) >= TERA / 10 else ("GFLOPs", GIGA)


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(' '.join(str(cell).replace('|', '/').split()) for cell in cells)} |"
