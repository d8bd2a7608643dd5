"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from .errors import MissingExtraError
from .folder import RunFolder
from .quality.catalogue import MEASURES
from .results import Results, Row
from .strips import AMPLIFIED, COUNT, difference, strip
from .tables import tables
from .timeline import svg, timelines

TEMPLATE = Path(__file__).parent / "page.html"


def page(folder: RunFolder, results: Results, plots: Mapping[str, bytes], made_by: str) -> str:
    """Fill the template. Raises `MissingExtraError` without jinja2."""
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("fxcache bench report", "jinja2", "bench") from error
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text())
    prompts = folder.prompts()[:COUNT]
    return template.render(
        about=results.about,
        plan=results.about["plan"],
        metrics=results.metrics,
        measures=[m for m in MEASURES if results.measured(m.key)],
        tables=tables(results),
        plots={name: _inline(png, "png") for name, png in plots.items()},
        settings=[_setting(folder, row, [p.index for p in prompts]) for row in results.rows],
        captions=[p.text for p in prompts],
        amplified=AMPLIFIED,
        made_by=made_by,
    )


def _setting(folder: RunFolder, row: Row, indices: list[int]) -> dict[str, Any]:
    return {
        "name": row.name,
        "config": json.dumps(dict(row.config))
        if row.config and not row.plain
        else f"plain, {row.steps} steps",
        "strip": _webp(strip(folder, row.name, indices)),
        "difference": _webp(difference(folder, row.name, indices)),
        "timelines": {name: svg(line) for name, line in timelines(row).items()},
    }


def _webp(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=80, method=4)
    return _inline(buffer.getvalue(), "webp")


def _inline(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
