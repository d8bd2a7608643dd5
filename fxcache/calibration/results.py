"""How near the results of a planned run are to those of the plain one, in dB."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CalibrationError
from ..plans import Quality

MOST = 120.0  # dB, of equal results


def pictures(result: Any) -> list[Tensor]:
    """What a run returned, as float32 tensors on the CPU, one a picture (or clip, or latents).

    A pipeline's result counts by its first field (`images`, `frames`). In tensors and arrays of more than one
    dimension the first counts pictures. Whole numbers and PIL pictures are taken to 0..1.

    Raises:
        CalibrationError: there are no numbers in it.

    Example:
        >>> import torch
        >>> from fxcache.calibration.results import pictures
        >>> [p.shape for p in pictures({"images": torch.rand(2, 3, 8, 8)})]
        [torch.Size([3, 8, 8]), torch.Size([3, 8, 8])]
    """
    if isinstance(result, Tensor):
        scale = torch.iinfo(result.dtype).max if not _floats(result) else 1
        whole = result.detach().float().cpu() / scale
        return list(whole) if whole.ndim > 1 else [whole]
    if isinstance(result, np.ndarray):
        return pictures(torch.from_numpy(result))
    if isinstance(result, Mapping) and result:
        return pictures(next(iter(result.values())))
    if dataclasses.is_dataclass(result) and dataclasses.fields(result):
        return pictures(getattr(result, dataclasses.fields(result)[0].name))
    if isinstance(result, Sequence) and not isinstance(result, str) and len(result):
        return [_one(item) for item in result]
    if hasattr(result, "convert"):  # a PIL picture
        return [_one(result)]
    raise CalibrationError(
        f"a run returned {type(result).__name__}, of which no quality can be measured",
        "Return images or latents: tensors, arrays or PIL pictures, or a pipeline's output.",
    )


def _floats(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool


def _one(item: Any) -> Tensor:
    if hasattr(item, "convert"):
        return torch.from_numpy(np.asarray(item.convert("RGB"), dtype=np.float32)) / 255
    parts = pictures(item)
    return torch.stack(parts) if len(parts) > 1 else parts[0]


def psnr(plain: Sequence[Tensor], cached: Sequence[Tensor]) -> list[float]:
    """Of each picture, in dB, at most 120.

    The peak is 1 where all plain pictures lie within 0..1, else the range that they cover.

    Raises:
        CalibrationError: results of one run differ in number or shape.

    Example:
        >>> import torch
        >>> from fxcache.calibration.results import psnr
        >>> psnr([torch.zeros(2), torch.ones(2)], [torch.full((2,), 0.1), torch.ones(2)])
        [20.0, 120.0]
    """
    if [p.shape for p in plain] != [c.shape for c in cached]:
        raise CalibrationError(
            "a run returned something of another shape when it was repeated", "Make runs repeatable."
        )
    low, high = min(float(p.min()) for p in plain), max(float(p.max()) for p in plain)
    peak = 1.0 if low >= 0 and high <= 1 else high - low
    found = []
    for a, b in zip(plain, cached, strict=True):
        error = float(((a - b).double() ** 2).mean()) / peak**2
        found.append(MOST if error <= 10 ** (-MOST / 10) else round(-10 * np.log10(error), 6))
    return [float(v) for v in found]


def quality(values: Sequence[float], runs: int) -> Quality:
    """Mean and worst 5% (at least one) of PSNRs.

    Example:
        >>> from fxcache.calibration.results import quality
        >>> quality([40.0, 50.0], runs=2)
        Quality(psnr=45.0, worst=40.0, runs=2)
    """
    worst = sorted(values)[: max(len(values) // 20, 1)]
    return Quality(sum(values) / len(values), sum(worst) / len(worst), runs)
