"""The pages that are not docstrings: their examples run, their links lead somewhere, the README stays short.

A block that begins with "```python run" is run, in one namespace with those before it on its page; where a
block without a language follows, that is what it prints. Every other Python block is compiled, and says at
its top what it needs.
"""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("fxcache", "passes", "tests", "bench")
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PRINTED_GRAPH = "def cached("  # compared with the golden file by tests/ir/test_printer.py


def pages() -> list[Path]:
    below = (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.md")))
    return [ROOT / "README.md", *(p for p in below if not p.is_relative_to(ROOT / "fxcache" / "passes"))]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """printed: what the page says that it prints; None where it does not say."""

    run: bool
    code: str
    printed: str | None


def blocks(page: Path) -> list[Block]:
    """The Python blocks of a page."""
    text = page.read_text()
    found = list(BLOCK.finditer(text))
    following = {m.start(): m[2] for m in found if not m[1]}
    return [
        Block(m[1] == "python run", m[2], following.get(m.end() + 1))
        for m in found
        if m[1].startswith("python")
    ]


def with_examples() -> list[Path]:
    return [page for page in pages() if any(block.run for block in blocks(page))]


@pytest.mark.parametrize("page", with_examples(), ids=name)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if not block.run:
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block.code, name(page), "exec"), names)
        if block.printed is not None:
            assert printed.getvalue().split() == block.printed.split()


@pytest.mark.parametrize("page", pages(), ids=name)
def test_other_examples_are_python_and_say_what_they_need(page: Path) -> None:
    for block in blocks(page):
        if block.run or block.code.startswith(PRINTED_GRAPH):
            continue
        compile(block.code, name(page), "exec")
        assert block.code.startswith("# needs "), f"say what it needs, or mark it to be run:\n{block.code}"


def anchors(page: Path) -> set[str]:
    """What a heading's link ends with: its words in small letters, joined, without punctuation."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(BLOCK.sub("", page.read_text())):
        if re.match(r"https?:|data:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{name(page)} links to {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{name(page)} links to {link}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_every_page_is_linked_from_another() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in pages()
        for link in LINK.findall(page.read_text())
    }
    found = {path / "README.md" if path.is_dir() else path for path in linked}
    assert not [name(page) for page in pages()[1:] if page.resolve() not in found]
