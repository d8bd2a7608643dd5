"""What the caller chooses about engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from ...errors import PrecisionError
from .shape_ranges import Dynamic

Precision = Literal["fp32", "fp16", "bf16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class TensorRTOptions:
    """How to build the engines.

    precision: None keeps the model's own; "fp16" or "bf16" lets a float32 model compute most layers in
        that. Engines are strongly typed: TensorRT adds no lower precision by itself.
    workspace: bytes of scratch memory the builder may use; 0 for its default.
    dynamic: as `sizes_of` takes it.
    require_full: an operator that would stay in PyTorch is an error.
    refit: build engines whose weights can be replaced (`refit()`); they cannot fold weights.
    cache_dir: keep built engines there and use them again; their weights can then be replaced, too.
    extra: further arguments of `torch_tensorrt.dynamo.compile`.
    """

    precision: Precision | None = None
    workspace: int = 0
    dynamic: Dynamic = False
    require_full: bool = False
    refit: bool = False
    cache_dir: Path | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.precision is not None and self.precision not in DTYPES:
            raise PrecisionError(self.precision, f"it must be one of {', '.join(DTYPES)}, or None")

    def settings(self) -> dict[str, Any]:
        """Arguments of `torch_tensorrt.dynamo.compile`."""
        chosen: dict[str, Any] = {
            "min_block_size": 1,  # a small stage is a stage; the default leaves it in PyTorch
            "workspace_size": self.workspace,
            "truncate_double": False,  # float64 is kept out of the engines
            "immutable_weights": not self.refittable,
            "attn_bias_is_causal": False,  # the default takes every mask for a causal one
            # as torch itself multiplies float32; the default rounds to TF32
            "disable_tf32": torch.get_float32_matmul_precision() == "highest",
        }
        if self.cache_dir is not None:
            chosen |= {
                "cache_built_engines": True,
                "reuse_cached_engines": True,
                "engine_cache_dir": str(self.cache_dir),
            }
        return chosen | dict(self.extra)

    @property
    def refittable(self) -> bool:
        """Whether weights can be replaced; torch-tensorrt's engine cache needs it, too."""
        return self.refit or self.cache_dir is not None

    def cast_to(self, dtype: torch.dtype) -> torch.dtype | None:
        """What products of a model of `dtype` are to be cast to, or None.

        Raises `PrecisionError` where the model is of less precision than asked for.
        """
        wanted = DTYPES[self.precision] if self.precision is not None else dtype
        if wanted == dtype:
            return None
        if dtype != torch.float32:
            raise PrecisionError(self.precision, f"the model is {dtype}; convert it first with model.to()")
        return wanted
