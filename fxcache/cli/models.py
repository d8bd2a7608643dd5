"""Models of the command line: the folder of a diffusers transformer, and the tensors of one call.

torch is imported where it is used: to list what a command takes needs none of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import torch
    from torch import nn

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


class Device(click.ParamType):
    """A device by its name: cpu, cuda, cuda:1.

    absent: it may be one that torch cannot use here.
    """

    name = "device"

    def __init__(self, absent: bool = False) -> None:
        self.absent = absent

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        import torch

        from ..devices import is_usable

        try:
            device = torch.device(value)
        except RuntimeError:
            self.fail(f"{value!r} is no device of torch; use cpu, cuda or cuda:1", param, ctx)
        if not self.absent and not is_usable(device):
            what = "CUDA GPU" if device.type == "cuda" else f"device {device.type}"
            number = f" number {device.index}" if device.index else ""
            self.fail(f"torch sees no {what}{number} here; use cpu", param, ctx)
        return value


DEVICE = Device()
INPUT_HELP = (
    "One tensor of a call, for example hidden_states=1x4096x64 or timestep=1:int64. Repeat it. "
    "Not needed for 'embedded'."
)


def dtype_of(name: str) -> torch.dtype:
    """That of torch, of one of `DTYPES`."""
    import torch

    found: torch.dtype = getattr(torch, DTYPES[name])
    return found


def model_class(folder: Path) -> Any:
    """The diffusers class that the folder's config.json names."""
    import diffusers

    file = folder / "config.json"
    if not file.is_file():
        raise click.BadParameter(f"{file} does not exist; give the folder of a diffusers transformer")
    kind = getattr(diffusers, str(json.loads(file.read_text()).get("_class_name")), None)
    if kind is None:
        raise click.BadParameter(f"{file} names no class of the installed diffusers")
    return kind


def load_weights(folder: Path, dtype: str, device: str) -> nn.Module:
    """The transformer with its weights, ready for inference."""
    try:
        model: nn.Module = model_class(folder).from_pretrained(folder, torch_dtype=dtype_of(dtype))
    except OSError as error:
        raise click.BadParameter(f"{folder} holds no weights: {error}") from error
    return model.to(device).eval().requires_grad_(False)


def tensors(texts: Sequence[str], dtype: str, device: str = "cpu") -> dict[str, torch.Tensor]:
    """The tensors of one call, from `NAME=SHAPE[:DTYPE]`, full of zeros."""
    if not texts:
        raise click.UsageError("give the tensors of one call: --input NAME=SHAPE, once for each")
    return dict(_tensor(text, dtype_of(dtype), device) for text in texts)


def given_call(inputs: Sequence[str], constants: Sequence[str], dtype: str) -> dict[str, Any]:
    """A call as typed with --input and --arg; empty where it is to be found."""
    if constants and not inputs:
        raise click.UsageError("--arg needs the tensors of the call, too: --input NAME=SHAPE for each")
    return {**tensors(inputs, dtype), **named_values(constants)} if inputs else {}


def named_values(pairs: Sequence[str]) -> dict[str, Any]:
    """Arguments from `NAME=VALUE`, the values in YAML."""
    import yaml

    for pair in pairs:
        if "=" not in pair:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--arg")
    return {name: yaml.safe_load(value) for name, _, value in (p.partition("=") for p in pairs)}


def _tensor(text: str, dtype: torch.dtype, device: str) -> tuple[str, torch.Tensor]:
    import torch

    name, _, rest = text.partition("=")
    shape, _, kind = rest.partition(":")
    try:
        sizes = tuple(int(s) for s in shape.split("x") if s)
        return name, torch.zeros(sizes, dtype=getattr(torch, kind) if kind else dtype, device=device)
    except (ValueError, AttributeError, TypeError) as error:
        raise click.BadParameter(
            f"{text!r} is not NAME=SHAPE[:DTYPE], as in hidden_states=1x64x16"
        ) from error
