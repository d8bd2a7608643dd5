"""`fxcache explain`: what is found in a model, and what a setting saves, without its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import CONFIG_HELP, SIZES, sizes_of, with_sizes
from .look import JSON, facts, messages, print_json, quiet, say
from .models import DTYPES, INPUT_HELP, dtype_of, given_call

if TYPE_CHECKING:
    from ..api.explain import Explanation
    from ..preparation.named import Prepared

DEFAULT_CONFIG = "F8B0_W8M0MC3_T1O1_R0.12"


@click.command()
@click.argument("model")
@click.option("--config", default=DEFAULT_CONFIG, show_default=True, help=CONFIG_HELP)
@with_sizes(*SIZES)
@click.option("--dtype", type=click.Choice(sorted(DTYPES)), default="bf16", show_default=True)
@click.option("--input", "inputs", multiple=True, metavar="NAME=SHAPE[:DTYPE]", help=INPUT_HELP)
@click.option("--arg", "constants", multiple=True, metavar="NAME=VALUE", help="Another argument of the call.")
@click.option(
    "--graph",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the graph: .svg, .png, .pdf, .dot. Of several denoisers the first.",
)
@JSON
def explain(
    model: str,
    config: str,
    dtype: str,
    inputs: tuple[str, ...],
    constants: tuple[str, ...],
    graph: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Say what is found in MODEL: blocks, streams, cuts, state, FLOPs of a step.

    MODEL is embedded, the folder of a diffusers pipeline or of a transformer, a config.json, or the name of a
    transformer class (with its default settings). Nothing is computed, no weights of it are read.
    """
    from .. import explain as explained
    from .. import transform
    from ..preparation.named import prepared

    quiet()
    with messages().status("looking"):
        call = given_call(inputs, constants, dtype)
        found = prepared(model, sizes_of(options), call, dtype_of(dtype))
        results = [(one, explained(one.model, config, one.call)) for one in found]
        if graph is not None:
            first = found[0]
            transform(first.model, config, example_inputs=first.call).graph.show(graph)
    if as_json:
        print_json([_as_dict(*result) for result in results])
        return
    for one, result in results:
        facts(f"{one.name}: {result.model}" if one.name != result.model else one.name, _facts(one, result))
    if graph is not None:
        say(f"wrote {graph}")


def _facts(one: Prepared, found: Explanation) -> list[tuple[str, str]]:
    from ..preparation.caught import described
    from ..runtime.stats import amount

    parameters = sum(p.numel() for p in one.model.parameters())
    chain = ", ".join(f"{n} x {name} ({kind})" for name, kind, n in found.lists)
    rows = [
        ("setting", str(found.config)),
        (
            "parameters",
            f"{parameters / 1e9:,.2f} billion" if parameters >= 1e8 else f"{parameters / 1e6:,.2f} million",
        ),
        ("call", f"{one.how}: " + ", ".join(f"{n} {shape}" for n, shape in described(one.call))),
        ("captured", found.captured),
        ("dynamic sizes", ", ".join(found.free_sizes) or "none: another size captures again"),
        ("blocks", f"{found.blocks}: {chain}"),
    ]
    if found.streams:
        rows.append(("streams", f"{', '.join(found.streams)}; primary: {found.primary_stream}"))
    for i, segment in enumerate(found.segments):
        middle = len(segment.blocks) - segment.fn - segment.bn
        text = f"{segment.fn} front, {middle} middle (skipped on a hit), {segment.bn} back"
        name = "segment" if len(found.segments) == 1 else f"segment {i}"
        rows.append((name, "all blocks are skipped on a hit" if found.config.level == "output" else text))
        rows += [("cached", f"{kind} of {value} {shape}") for value, shape, kind in segment.cached_values]
    rows += [
        ("timestep", found.timestep or "none found: call reset() between runs"),
        ("state", f"{found.state_bytes / 2**20:,.2f} MiB a context"),
        ("computed step", f"{amount(found.flops_computed)}FLOPs"),
        ("cached step", f"{amount(found.flops_cached)}FLOPs{_share(found)}"),
        *([("not symbolic", found.unless)] if found.unless else ()),
        *(("note", note) for note in found.notes),
    ]
    return rows


def _share(found: Explanation) -> str:
    if not found.flops_computed or found.flops_cached is None:
        return ""
    return f", {found.flops_cached / found.flops_computed:.1%} of a computed one"


def _as_dict(one: Prepared, found: Explanation) -> dict[str, Any]:
    from ..preparation.caught import described

    return {
        "name": one.name,
        "model": found.model,
        "parameters": sum(p.numel() for p in one.model.parameters()),
        "call": {"how": one.how, "tensors": dict(described(one.call))},
        "setting": str(found.config),
        "captured": found.captured,
        "free_sizes": list(found.free_sizes),
        "lists": [{"name": name, "class": kind, "blocks": n} for name, kind, n in found.lists],
        "streams": list(found.streams),
        "primary_stream": found.primary_stream,
        "segments": [
            {
                "blocks": list(segment.blocks),
                "fn": segment.fn,
                "bn": segment.bn,
                "cached_values": [list(value) for value in segment.cached_values],
            }
            for segment in found.segments
        ],
        "timestep": found.timestep,
        "state_bytes": found.state_bytes,
        "flops_computed": found.flops_computed,
        "flops_cached": found.flops_cached,
        "notes": list(found.notes),
        "unless": found.unless,
        "waits": found.waits,
    }
