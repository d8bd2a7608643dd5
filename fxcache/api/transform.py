"""The public verbs that turn a model into a cached one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

from torch import nn

from ..backends.lowering import lowering
from ..capture.rank_groups import AUTO
from ..capture.root_hooks import FORWARD
from ..capture.whole_parameters import class_of
from ..config import FIELDS, CacheConfig, ConfigLike, as_config
from ..environment.ignored import paths_of
from ..errors import ConfigError
from ..ir.named_blocks import Named, named_paths
from ..ir.ranks import Agree
from ..ir.settings import require_made_for
from ..runtime.cached_transformer import CachedTransformer
from ..runtime.diffusers_pipeline import P, is_pipeline, transform_pipeline
from ..runtime.specializations import MAX_CAPTURES
from ..runtime.subjects import require_model
from ..spelling import known_options

Scope = Literal["model", "list"]
OnUnsupported = Literal["raise", "passthrough"]
Blocks = Named | Sequence[Named] | None


@overload
def transform(
    model: nn.Module,
    config: ConfigLike = None,
    *,
    example_inputs: Mapping[str, Any] | None = None,
    scope: Scope = "model",
    timestep: str | None = None,
    on_unsupported: OnUnsupported = "raise",
    max_contexts: int = 64,
    max_captures: int = MAX_CAPTURES,
    process_group: Any = AUTO,
    agree: Agree = "parts",
    method: str = FORWARD,
    ignore: Sequence[str] = (),
    blocks: Blocks = None,
) -> CachedTransformer: ...


@overload
def transform(
    model: P,
    config: ConfigLike = None,
    *,
    scope: Scope = "model",
    timestep: str | None = None,
    on_unsupported: OnUnsupported = "raise",
    max_contexts: int = 64,
    max_captures: int = MAX_CAPTURES,
    process_group: Any = AUTO,
    agree: Agree = "parts",
    method: str = FORWARD,
    ignore: Sequence[str] = (),
    blocks: Blocks = None,
) -> P: ...


@known_options("fxcache.transform()", {name: f"config=CacheConfig({name}=...)" for name in FIELDS})
def transform(
    model: Any,
    config: ConfigLike = None,
    *,
    example_inputs: Mapping[str, Any] | None = None,
    scope: Scope = "model",
    timestep: str | None = None,
    on_unsupported: OnUnsupported = "raise",
    max_contexts: int = 64,
    max_captures: int = MAX_CAPTURES,
    process_group: Any = AUTO,
    agree: Agree = "parts",
    method: str = FORWARD,
    ignore: Sequence[str] = (),
    blocks: Blocks = None,
) -> Any:
    """Compile a block cache into a diffusion transformer, or into every denoiser of a pipeline.

    Args:
        model: any `nn.Module` whose forward runs a chain of blocks, however it holds them; not changed;
            or a `diffusers.DiffusionPipeline`, whose denoisers are replaced by cached ones in place.
        config: a `Plan` or several, a `CacheConfig`, the notation `"F8B0_W8M0MC3_T1O1_R0.12"`, the path of
            a plan's file (`"plan.json"`), or a mapping of fields. For a
            pipeline also a mapping from component names to one of these: only those are transformed.
        example_inputs: keyword arguments of one call, to capture now; else the first call captures.
        scope: "model" makes the whole chain one segment; "list" gives every block list its own Fn, Bn,
            state and decision.
        timestep: the forward's input that holds the timestep, where its name is not a usual one.
        on_unsupported: "raise", or "passthrough" to run uncached (with one warning) where the model
            cannot be transformed.
        max_contexts: how many contexts may hold state at once.
        max_captures: how many graphs to keep for one kind of call, that is for calls that differ only in
            sizes and plain values; the one not used for longest is dropped. Calls that need a new graph each
            time are refused when N graphs served one call each.
        process_group: the processes that take each decision together, as they must where they have
            collectives in common: a group of torch.distributed, or a `DeviceMesh`; "auto" finds diffusers'
            context and tensor parallelism, `DTensor` shards and FSDP2; None: each process for itself.
        agree: what the ranks of a given group have: "parts" of one sample, whose measurements are summed, or
            a sample "each" (CFG or data parallel), of which a step is a hit where it is one for all. All
            ranks make the same calls; one that fails while others wait for it ends by the group's timeout,
            see `torch.distributed.init_process_group(timeout=)`.
        method: what to cache in the forward's place, where the model is entered otherwise:
            `cached.forward_with_cfg(...)` runs cached then, and so do methods that call it; the forward runs
            uncached. `example_inputs` are its arguments, also those of `export` and of the package.
        ignore: paths of options that no graph depends on, such as `"transformer_options.uuids"`: an argument,
            and from there keys of dicts, places in lists or names of attributes. Calls that differ in them
            share a graph. The model is not shown them: code of it that looks at one is told.
        blocks: the blocks, where they are not found or others are: paths (`"double_blocks"`, `"layers.3"`) or
            modules, one or several; of what holds several, those in it are meant. All must be in one chain.

    Returns:
        A module to use in the model's place; of a pipeline, the pipeline (`fxcache.restore` undoes it).

    Raises:
        ConfigError, NotationError, PlanError: the config cannot work, or there is nothing that `ignore` or
        `blocks` names. NoTimestepError: no such input. NoMethodError: no such `method`.
        AlreadyCachedError: diffusers' own cache is enabled. NoDenoiserError: nothing in the pipeline to
        cache. CaptureError, NoBlocksError, TooManyBlocksError, BlockMutationError: the model cannot be
        transformed so; raised here with `example_inputs`, else by the first call. So is NamedBlocksError:
        what `blocks` names is no chain. OpaqueInputError, TooManyCapturesError, IgnoredInputError: raised by
        calls whose arguments cannot be compared, never come again, or are looked at though ignored.

    Example:
        >>> import fxcache
        >>> from fxcache.embedded import load_pipeline, load_transformer, sample
        >>> pipe = load_pipeline()
        >>> pipe.transformer = fxcache.transform(pipe.transformer, "F1B0_W2M0MC1_T1O1_R9")
        >>> sample(pipe, [3], num_inference_steps=6).shape  # [batch, channels, height, width]
        torch.Size([1, 1, 28, 28])
        >>> pipe.transformer.stats().cached
        2
        >>> fxcache.transform(load_transformer(), {"fn_compute_blocks": 4, "max_warmup_steps": 2})
        CachedTransformer(FluxTransformer2DModel, F4B0_W2M0MC0_T0O1_R0.08)
        >>> model, blocks = load_transformer(), ["transformer_blocks", "single_transformer_blocks"]
        >>> fxcache.transform(model, "2x", blocks=blocks, ignore=["joint_attention_kwargs.name"])
        CachedTransformer(FluxTransformer2DModel, ...)
    """
    if scope not in ("model", "list"):
        raise ConfigError("scope", scope, 'it must be "model" or "list"', of="fxcache.transform()")
    if on_unsupported not in ("raise", "passthrough"):
        need = 'it must be "raise" or "passthrough"'
        raise ConfigError("on_unsupported", on_unsupported, need, of="fxcache.transform()")

    if max_captures < 1:
        raise ConfigError("max_captures", max_captures, "it must be at least 1", of="fxcache.transform()")
    if agree not in ("parts", "each"):
        raise ConfigError("agree", agree, 'it must be "parts" or "each"', of="fxcache.transform()")

    def cache(module: nn.Module, settings: CacheConfig) -> CachedTransformer:
        original = module.original if isinstance(module, CachedTransformer) else require_model(module)
        require_made_for(settings.plans, class_of(original).__name__)
        return CachedTransformer(
            original,
            settings,
            choose_lowering=lowering,
            scope=scope,
            timestep=timestep,
            on_unsupported=on_unsupported,
            max_contexts=max_contexts,
            max_captures=max_captures,
            process_group=process_group,
            agree=agree,
            method=method,
            ignore=paths_of(ignore),
            blocks=named_paths(original, blocks),
        )

    if is_pipeline(model):
        if example_inputs is not None:
            need = "a pipeline's first call captures: leave it out"
            raise ConfigError("example_inputs", "...", need, of="fxcache.transform()")
        return transform_pipeline(model, config, cache)
    settings = as_config(config)
    cached = cache(model, settings)
    if example_inputs is not None and settings.enabled:
        cached.prepare(example_inputs)
    return cached
