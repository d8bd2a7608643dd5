"""`fxcache bench report`: tables, plots, strips and the page of a run."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from .folder import RunFolder
from .latency import latency_doubt
from .machine import command
from .page import page
from .plots import plots
from .progress import say
from .results import Results, load_results
from .strips import COUNT, gallery
from .tables import tables


def report(root: Path) -> None:
    """Write `report/`: tables.md, a PNG per plot, strips.webp, index.html.

    Raises `NoRunError` where the run is not whole, `MissingExtraError`.
    """
    folder = RunFolder(root)
    results = load_results(folder)
    made_by = command("bench", "report", options=[("--run", root)])
    target = folder.report
    target.mkdir(exist_ok=True)
    drawn = plots(results)
    for plot in drawn:
        (target / f"{plot.name}.png").write_bytes(plot.png())
    markdown = tables_text(results)
    (target / "tables.md").write_text(markdown)
    indices = [p.index for p in folder.prompts()[:COUNT]]
    strips = gallery(folder, [r.name for r in results.rows], indices)
    strips.save(target / "strips.webp", quality=80, method=6)
    (target / "index.html").write_text(page(folder, results, drawn, made_by))
    console = Console()
    console.print(markdown, highlight=False, markup=False, soft_wrap=True)
    if not results.metrics:
        say(console, f"no metrics yet; measure them with: fxcache bench metrics --run {root}")
    doubt = latency_doubt(results)
    if doubt is not None:
        say(console, f"latency was not measured alone, and is not plotted: {doubt}")
    say(console, f"wrote {target / 'index.html'}; made by: {made_by}")


def tables_text(results: Results) -> str:
    """The tables under a line that says what they were measured on."""
    about = results.about
    plan = about["plan"]
    lines = [
        f"Model: {plan['model']} ({'; '.join(about['models'])}). Device: {about['device']}. "
        f"{len(plan['prompts'])} pictures of {plan['steps']} steps, {plan['batch']} a call. "
        f"Latency: {about['clock']}, a picture, median.",
        "",
        f"Made by `{about['command']}`.",
        "",
    ]
    return "\n".join(lines) + "\n" + "\n".join(t.markdown() for t in tables(results))
