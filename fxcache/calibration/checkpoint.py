"""Plain runs that were done already, in a file: an interrupted calibration goes on from there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..torch_private import pytree
from .record import Record, Step

SAMPLE = 64  # numbers of each parameter by which a model is known again


def fingerprint(denoisers: Mapping[str, nn.Module], calls: object) -> str:
    """Of the models' weights, and of the tensors and plain values that they are called with.

    Example:
        >>> import torch
        >>> from fxcache.calibration.checkpoint import fingerprint
        >>> model = torch.nn.Linear(2, 2)
        >>> before = fingerprint({"model": model}, None)
        >>> with torch.no_grad():
        ...     _ = model.bias.add_(1)
        >>> fingerprint({"model": model}, None) == before
        False
    """
    found = hashlib.sha256()
    for name, model in sorted(denoisers.items()):
        found.update(f"{name} {type(model).__name__}".encode())
        for key, value in model.state_dict().items():
            if isinstance(value, Tensor):
                found.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
                found.update(str(value.detach().flatten()[:SAMPLE].tolist()).encode())
    for leaf in pytree.tree_leaves(calls):
        if isinstance(leaf, Tensor):
            found.update(f"{tuple(leaf.shape)} {leaf.flatten()[:SAMPLE].tolist()}".encode())
        elif isinstance(leaf, (bool, int, float, str)):
            found.update(repr(leaf).encode())
    return found.hexdigest()


def save(
    path: Path,
    key: str,
    records: Sequence[Record],
    results: Sequence[list[Tensor]],
    states: list[list[Tensor]],
) -> None:
    """Write plain runs; a file that is there is replaced at once, or not at all.

    Example:
        >>> from pathlib import Path
        >>> from fxcache.calibration.checkpoint import load, save
        >>> save(Path("runs.pt"), "key", [], [], [])
        >>> load(Path("runs.pt"), "key"), load(Path("runs.pt"), "another")
        (([], [], []), None)
    """
    kept = [
        {
            "steps": [asdict(step) for step in record.steps],
            "latents": record.latents,
            "outputs": record.outputs,
            "copies": record.copies,
            "moving": record.moving,
        }
        for record in records
    ]
    content = {"key": key, "records": kept, "results": list(results), "states": states}
    beside = path.with_name(path.name + ".part")
    torch.save(content, beside)
    os.replace(beside, path)


def load(path: Path, key: str) -> tuple[list[Record], list[list[Tensor]], list[list[Tensor]]] | None:
    """What `save` wrote: records, results, states of generators; None if it is of other runs, or not there.

    Example:
        >>> from pathlib import Path
        >>> from fxcache.calibration.checkpoint import load
        >>> load(Path("nowhere.pt"), "key") is None
        True
    """
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = torch.load(path, weights_only=True)
        if content["key"] != key:
            return None
        records = [
            Record(**{**fields, "steps": tuple(Step(**step) for step in fields["steps"])})
            for fields in content["records"]
        ]
        return records, content["results"], content["states"]
    except Exception:  # no such file: another's, or cut off in the middle
        return None
