"""The table of every case, made by running it.

`python -m tests.behaviour.zoo.table [case ...]` writes TABLE.md.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from torch.fx import Node

from fxcache import CacheConfig
from fxcache.errors import FxcacheError
from fxcache.ir.program import Program
from tests.reference import NotExpressibleError

from . import ALL_CASES
from .against_reference import compare
from .case import ZooCase
from .running import Captured, Run, bit_equal, captured, run_original

TABLE = Path(__file__).parent / "TABLE.md"
TOLERANCE = 1e-5
INTRODUCTION = """# Every transformer of diffusers, cached

Written by `python -m tests.behaviour.zoo.table` from running each case (tiny random weights) at F1B1; do
not edit.

- **via**: `symbolic` leaves sizes free, `static` fixes them, `real` was traced on real tensors because
  Python code reads values, and checks the values in **guards** on every call.
- **streams**: values at the cut in front of and behind the middle blocks.
- **free**: dimensions of inputs that one graph serves; others make another graph.
- **uncached**: a step with nothing cached equals the model bit for bit, with fresh inputs.
- **reuse**, **Taylor**: largest relative error of a hit against the run-time reference
  (`tests/reference.py`), over the steps 1101001; steps that compute are bit-equal there too.

| case | via | chain | streams | free | guards | uncached | reuse | Taylor | notes |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
F1B1 = CacheConfig(fn_compute_blocks=1, bn_compute_blocks=1, residual_diff_threshold=0.0)


def describe(case: ZooCase) -> dict[str, str]:
    """The columns that follow from the graph alone."""
    found = captured(case)
    program = found.program(F1B1)
    guards = found.capture.values
    return {
        "via": found.capture.how,
        "chain": chain_of(program),
        "streams": _streams(program),
        "free": _free(found, program),
        "guards": str(len(guards.reads)) if guards is not None else "",
    }


def row(case: ZooCase) -> str:
    """The case's line of the table."""
    try:
        columns = describe(case)
    except FxcacheError as error:
        reason = " ".join(str(error).split())
        columns = {"via": "refused", "notes": f"{type(error).__name__}: {reason}"}
    else:
        found = captured(case)
        columns["uncached"] = "equal" if _uncached_equal(case, found) else "DIFFERENT"
        columns["notes"] = _why(found)
        for name, order in (("reuse", 0), ("Taylor", 1)):
            try:
                result = compare(case, found, order)
            except (NotExpressibleError, TypeError, AttributeError) as error:
                columns[name] = "–"
                note = f"no reference: {error}"
                if note not in columns["notes"]:
                    columns["notes"] = "; ".join(filter(None, (columns["notes"], note)))
            else:
                columns[name] = _error(result.error) if result.computed_equal else "DIFFERENT"
    names = ("via", "chain", "streams", "free", "guards", "uncached", "reuse", "Taylor", "notes")
    cells = [case.name, *(columns.get(n, "").replace("|", "\\|") for n in names)]
    return "| " + " | ".join(cells) + " |"


def chain_of(program: Program) -> str:
    """`double x4 > single x4`; lists that take turns are written once."""
    runs: list[tuple[str, int]] = []
    for block in program.chain:
        if runs and runs[-1][0] == block.module_list:
            runs[-1] = (block.module_list, runs[-1][1] + 1)
        else:
            runs.append((block.module_list, 1))
    if len(runs) > len({name for name, _ in runs}) + 1:
        totals: dict[str, int] = {}
        for name, count in runs:
            totals[name] = totals.get(name, 0) + count
        return ", ".join(f"{name} x{count}" for name, count in totals.items()) + " in turn"
    return " > ".join(f"{name} x{count}" for name, count in runs)


def _streams(program: Program) -> str:
    (segment,) = program.segments
    assert program.partition is not None
    first = segment.middle[0].carries.values()
    return f"{_shapes(first)} → {_shapes(program.partition.middles[0].outputs)}"


def _shapes(values: object) -> str:
    nodes = [n for n in values if isinstance(n, Node) and hasattr(n.meta["val"], "shape")]  # type: ignore[attr-defined]
    return " ".join("[" + ",".join(_size(s) for s in n.meta["val"].shape) + "]" for n in nodes)


def _size(size: object) -> str:
    hint = getattr(getattr(size, "node", None), "hint", size)
    return "?" if hint is None else str(hint)


def _free(found: Captured, program: Program) -> str:
    names = found.capture.inputs
    dims: dict[str, list[str]] = {}
    for index, dim in found.capture.shapes.also(program.assumed).open_dims():
        dims.setdefault(names[index], []).append(str(dim))
    return "; ".join(f"{name} {','.join(of)}" for name, of in dims.items())


def _uncached_equal(case: ZooCase, found: Captured) -> bool:
    run = Run(found, found.program(F1B1))
    equal = True
    for seed in (3, 4):
        fresh = case.fresh_inputs(seed)
        names = case.latent_names + case.timestep_names
        inputs = {**found.inputs, **{name: fresh[name] for name in names}}
        equal = equal and bit_equal(run(inputs), run_original(found.model, inputs))
    return equal


def _why(found: Captured) -> str:
    """Why sizes are not free: what stopped the symbolic trace."""
    reason = found.capture.refused.get("symbolic", "").split("(unhinted")[0].strip()
    return f"not symbolic: {reason[:120]}" if reason else ""


def _error(error: float) -> str:
    return "equal" if error == 0 else f"{error:.0e}"


def main(names: list[str]) -> None:
    """Write the table anew; with names, those cases' lines only."""
    warnings.simplefilter("ignore")
    old = TABLE.read_text().splitlines() if names and TABLE.exists() else []
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in old if line.startswith("| ")}
    for case in ALL_CASES:
        if not names or case.name in names:
            lines[case.name] = row(case)
            print(lines[case.name], flush=True)
    kept = [lines[case.name] for case in ALL_CASES if case.name in lines]
    TABLE.write_text(INTRODUCTION + "\n".join(kept) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
