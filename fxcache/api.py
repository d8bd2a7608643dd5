"""The public verbs that turn a model into a cached one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from .cached import CachedTransformer
from .config import CacheConfig, as_config
from .errors import ConfigError

Scope = Literal["model", "list"]
OnUnsupported = Literal["raise", "passthrough"]


def transform(
    model: nn.Module,
    config: CacheConfig | str | Mapping[str, Any] | None = None,
    *,
    example_inputs: Mapping[str, Any] | None = None,
    scope: Scope = "model",
    timestep: str | None = None,
    on_unsupported: OnUnsupported = "raise",
    max_contexts: int = 64,
) -> CachedTransformer:
    """Compile a block cache into a diffusion transformer.

    Args:
        model: any `nn.Module` whose forward runs a chain of blocks held in module lists. Not changed.
        config: a `CacheConfig`, the notation `"F8B0_W8M0MC3_T1O1_R0.12"`, or a mapping of fields.
        example_inputs: keyword arguments of one call, to capture now; else the first call captures.
        scope: "model" makes the whole chain one segment; "list" gives every block list its own Fn, Bn,
            state and decision.
        timestep: the forward's input that holds the timestep, where its name is not a usual one.
        on_unsupported: "raise", or "passthrough" to run uncached (with one warning) where the model
            cannot be transformed.
        max_contexts: how many contexts may hold state at once.

    Returns:
        A module to use in the model's place.

    Raises:
        ConfigError, NotationError: the config cannot work. NoTimestepError: no such input.
        CaptureError, NoBlocksError, TooManyBlocksError, BlockMutationError: the model cannot be
        transformed so; raised here with `example_inputs`, else by the first call.
    """
    settings = as_config(config)
    if scope not in ("model", "list"):
        raise ConfigError("scope", scope, 'be "model" or "list"')
    if on_unsupported not in ("raise", "passthrough"):
        raise ConfigError("on_unsupported", on_unsupported, 'be "raise" or "passthrough"')
    original = model.original if isinstance(model, CachedTransformer) else model
    cached = CachedTransformer(
        original,
        settings,
        scope=scope,
        timestep=timestep,
        on_unsupported=on_unsupported,
        max_contexts=max_contexts,
    )
    if example_inputs is not None and settings.enabled:
        cached.prepare(example_inputs)
    return cached
