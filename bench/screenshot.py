"""A page, whole, as a PNG picture, taken by headless Chromium.

    python -m bench.screenshot runs/default/report/index.html bench/results/default/page.png

`apt-get install chromium` brings the browser. `--width 390` is a phone's, `--dark` the dark colors.
"""

from __future__ import annotations

import argparse
import html
import io
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
)
DARK = "--blink-settings=preferredColorScheme=0"
COLORS = 256
# A window is never narrower than 500 pixels; a frame in it is, and what it holds is laid out for its width.
FRAME = """<!doctype html><body style="margin:0">
<iframe id="frame" srcdoc="{page}" style="border:0;display:block;width:{width}px;height:{height}px"></iframe>
<script>document.getElementById("frame").onload = (event) => {{
  document.body.dataset.height = event.target.contentDocument.documentElement.scrollHeight;
}}</script></body>"""


def chromium() -> str | None:
    """The browser's path, where there is one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def run(page: str, *flags: str, timeout: float = 180) -> str:
    """Open a page's text in the browser; what it writes to its standard output."""
    browser = chromium()
    if browser is None:
        raise SystemExit("no Chromium on this machine: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "page.html")
        path.write_text(page)
        words = [browser, *FLAGS, *flags, f"--user-data-dir={folder}/profile", path.as_uri()]
        return subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=True).stdout


def with_script(page: str, script: str) -> str:
    """The page with a script at its end."""
    return page.replace("</body>", f"<script>{script}</script></body>")


def screenshot(page: str, width: int = 1080, dark: bool = False, height: int | None = None) -> Image.Image:
    """A page's picture, of its own height unless one is given (then what a window of it shows)."""
    height = height or _height(page, width)
    flags = [f"--window-size={width},{height}", *([DARK] if dark else [])]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "shot.png")
        run(framed(page, width, height), f"--screenshot={path}", *flags)
        return Image.open(io.BytesIO(path.read_bytes())).convert("RGB").crop((0, 0, width, height))


def _height(page: str, width: int) -> int:
    found = re.search(r'data-height="(\d+)"', run(framed(page, width, 10), "--dump-dom"))
    assert found is not None, "the page was not loaded"
    return int(found[1])


def framed(page: str, width: int, height: int) -> str:
    """A page that shows another in a frame, which may be narrower than any window."""
    return FRAME.format(page=html.escape(page), width=width, height=height)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=1080, help="pixels")
    parser.add_argument("--dark", action="store_true", help="as for a reader who prefers dark pages")
    options = parser.parse_args()
    picture = screenshot(options.page.read_text(), options.width, options.dark)
    picture.quantize(COLORS, dither=Image.Dither.NONE).save(options.out, optimize=True)


if __name__ == "__main__":
    main()
