"""matplotlib's SVG as a part of a page: its colors follow the page's, its points can be pointed at."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

POINT = "point-"  # begins the gid of what stands for a row


def inline_svg(figure: Any, name: str, colors: Mapping[str, str]) -> str:
    """Write a figure as an `<svg>` element.

    Args:
        figure: of matplotlib. An artist with the gid `point-7` becomes `<g class="point" data-row="7">`.
        name: begins every id in it, so that several figures fit one page.
        colors: CSS variables in place of colors such as "#1f6feb".
    """
    import matplotlib

    buffer = io.StringIO()
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": name}
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf'\1 class="{name}" role="img"', text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(rf'<g id="{POINT}(\d+)">', r'<g class="point" data-row="\1" tabindex="0">', text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"(url\(#|href=\"#)", rf"\1{name}-", text)
    for color, variable in colors.items():
        text = text.replace(color, f"var({variable})")
    return re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", text)
