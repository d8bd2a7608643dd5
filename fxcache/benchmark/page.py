"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .errors import MissingExtraError
from .folder import RunFolder
from .latency import latency_doubt
from .plots import NARROW, WIDE, Plot
from .quality.catalogue import MEASURES
from .results import Results, Row
from .strips import AMPLIFIED, COUNT, difference, strip
from .tables import flops_unit, tables
from .timeline import svg, timelines

HERE = Path(__file__).parent


def page(folder: RunFolder, results: Results, plots: Sequence[Plot], made_by: str) -> str:
    """Fill page.html, with page.css and page.js inside. Raises `MissingExtraError` without jinja2."""
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("fxcache bench report", "jinja2", "bench") from error
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((HERE / "page.html").read_text())
    prompts = folder.prompts()[:COUNT]
    return template.render(
        about=results.about,
        plan=results.about["plan"],
        metrics=results.metrics,
        measures=[m for m in MEASURES if results.measured(m.key)],
        tables=tables(results),
        doubt=latency_doubt(results),
        plots=[_plot(plot) for plot in plots],
        settings=[_setting(folder, results, row, [p.index for p in prompts]) for row in results.rows],
        captions=[p.text for p in prompts],
        amplified=AMPLIFIED,
        made_by=made_by,
        style=(HERE / "page.css").read_text(),
        script=(HERE / "page.js").read_text(),
    )


def _plot(plot: Plot) -> dict[str, str]:
    return {"title": plot.title, "wide": plot.svg(WIDE), "narrow": plot.svg(NARROW)}


def _setting(folder: RunFolder, results: Results, row: Row, indices: list[int]) -> dict[str, Any]:
    return {
        "name": row.name,
        "plain": row.plain,
        "numbers": _numbers(results, row),
        "config": None if row.plain else json.dumps(dict(row.config)),
        "strip": _webp(strip(folder, row.name, indices)),
        "difference": _webp(difference(folder, row.name, indices)),
        "timelines": {name: svg(line) for name, line in timelines(row).items()},
    }


def _numbers(results: Results, row: Row) -> str:
    """What a reader compares, in one line."""
    steps = f"{row.steps} plain steps" if row.plain else f"{row.cached_steps:.1f} of {row.steps} steps cached"
    found = [steps]
    base, (unit, size) = results.baseline, flops_unit(results)
    if row.flops is not None and base.flops is not None:
        found.append(f"{row.flops / size:.2f} {unit} ({base.flops / row.flops:.2f}x fewer)")
    for measure in MEASURES:
        if measure.key in row.values:
            found.append(f"{measure.title} {row.values[measure.key]:.{measure.digits}f}")
    return " · ".join(found)


def _webp(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=80, method=4)
    return _inline(buffer.getvalue(), "webp")


def _inline(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
