"""What the caller chooses about engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from ...errors import PrecisionError
from .sizes import Dynamic

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
    cache_dir: keep built engines there and use them again. Needs `refit`.
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

    def settings(self, dtype: torch.dtype) -> dict[str, Any]:
        """Arguments of `torch_tensorrt.dynamo.compile` for a model of `dtype`.

        Raises `PrecisionError` where the model is of less precision than asked for.
        """
        chosen: dict[str, Any] = {
            "min_block_size": 1,  # a small stage is a stage; the default leaves it in PyTorch
            "workspace_size": self.workspace,
            "truncate_double": False,  # float64 is kept out of the engines
            "immutable_weights": not (self.refit or self.cache_dir),
        }
        if self.cache_dir is not None:
            chosen |= {
                "cache_built_engines": True,
                "reuse_cached_engines": True,
                "engine_cache_dir": str(self.cache_dir),
            }
        return chosen | self._autocast(dtype) | dict(self.extra)

    def _autocast(self, dtype: torch.dtype) -> dict[str, Any]:
        wanted = DTYPES[self.precision] if self.precision is not None else dtype
        if wanted == dtype:
            return {}
        if dtype != torch.float32:
            raise PrecisionError(self.precision, f"the model is {dtype}; convert it first with model.to()")
        return {
            "enable_autocast": True,
            "autocast_low_precision_type": wanted,
            # it would cast the predicate, too
            "autocast_excluded_ops": {torch.ops.aten.where.self},
        }
