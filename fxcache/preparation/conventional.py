"""A call made up from what diffusers' models call their inputs and settings, and tried on the meta device."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..torch_private import pytree
from .caught import Call
from .errors import NoCallError
from .sizes import Sizes

PIXELS, TOKENS, SECONDS = (1024, 1024), 512, 1024
SPATIAL, TEMPORAL = 8, 4  # pixels and frames for one of latents, in most autoencoders
SAMPLES = ("hidden_states", "sample", "latents", "x")
CHANNELS = ("in_channels", "io_channels", "latent_channels", "in_dim", "num_channels")
TIMES = ("timestep", "timesteps", "t", "r", "timestep_r")
TEXTS = {  # inputs, and the settings that say how wide they are
    "encoder_hidden_states": (
        *("joint_attention_dim", "caption_channels", "text_embed_dim", "text_dim", "cap_feat_dim"),
        *("cross_attention_input_dim", "cross_attention_dim", "caption_projection_dim", "text_in_dim"),
        *("in_text_dim", "text_hidden_dim", "text_states_dim", "encoder_hid_dim", "cond_token_dim"),
        *("context_in_dim", "context_dim", "text_encoder_dim"),
    ),
    "encoder_hidden_states_t5": ("text_embed_dim_t5", "cross_attention_dim_t5"),
    "encoder_hidden_states_2": ("text_embed_2_dim",),
    "pooled_projections": ("pooled_projection_dim", "in_text_dim2", "text_embed_dim", "text_states_dim_2"),
}
POOLED = ("pooled_projections",)  # without a dimension of tokens
LENGTHS = ("max_text_seq_length", "text_len", "max_sequence_length")
MASKS = ("encoder_attention_mask", "encoder_hidden_states_mask", "attention_mask", "text_mask")
ATTEMPTS = 64


@dataclass(frozen=True)
class _Layout:
    """How the sample lies in memory. grid: its extents in patches; tokens: how many these are."""

    shape: tuple[int, ...]
    grid: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return torch.Size(self.grid).numel()


def conventional_call(model: nn.Module, sizes: Sizes) -> Call:
    """Arguments that the forward of `model`, on the meta device, takes: the first guess that runs.

    Raises:
        NoCallError: it takes none of them.

    Example:
        FLUX.1 draws 1024 x 1024 pixels of 4,096 tokens, packed by two into 64 channels:

        >>> import torch
        >>> from diffusers.models import FluxTransformer2DModel
        >>> from fxcache.preparation.conventional import conventional_call
        >>> from fxcache.preparation.sizes import Sizes
        >>> with torch.device("meta"):
        ...     model = FluxTransformer2DModel(num_layers=1, num_single_layers=1)
        >>> call = conventional_call(model, Sizes())
        >>> call["hidden_states"].shape, call["pooled_projections"].shape
        (torch.Size([1, 4096, 64]), torch.Size([1, 768]))
    """
    failure = "no input is called as diffusers calls a sample"
    dtype = next((p.dtype for p in model.parameters()), torch.float32)

    def tried(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to("meta", dtype if tensor.is_floating_point() else None)

    for call in itertools.islice(_guesses(model, sizes), ATTEMPTS):
        try:
            with torch.no_grad():
                model(**pytree.tree_map_only(torch.Tensor, tried, call))
            return call
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
    raise NoCallError(type(model).__name__, failure)


def _guesses(model: nn.Module, sizes: Sizes) -> Iterator[Call]:
    config = getattr(model, "config", {})
    taken = inspect.signature(type(model).forward).parameters
    name = next((n for n in SAMPLES if n in taken), None)
    if name is None:
        return
    widths = [_texts(taken, config, shift) for shift in range(2)]
    for texts, masks, layout in itertools.product(widths, (False, True), _layouts(config, sizes)):
        batch, length = layout.shape[0], sizes.prompt_length or next(iter(_numbers(config, LENGTHS)), TOKENS)
        shapes = {n: (batch, width) if n in POOLED else (batch, length, width) for n, width in texts.items()}
        encoded = {n: torch.zeros(shape) for n, shape in shapes.items()}
        rest = _others(taken, config, layout, length, masks)
        yield {name: torch.zeros(layout.shape), **encoded, **rest}


def _texts(taken: Mapping[str, Any], config: Mapping[str, Any], shift: int) -> dict[str, int]:
    """The width of each encoded text: as the first of its settings says, or with a shift of 1 the second."""
    found = {name: _numbers(config, names) for name, names in TEXTS.items() if name in taken}
    return {name: widths[min(shift, len(widths) - 1)] for name, widths in found.items() if widths}


def _others(
    taken: Mapping[str, inspect.Parameter],
    config: Mapping[str, Any],
    layout: _Layout,
    length: int,
    masks: bool,
) -> Call:
    batch = layout.shape[0]
    axes = len(config.get("axes_dims_rope") or config.get("axes_dim") or (0, 0, 0))
    time, height, width = (1, 1, 1, *layout.grid)[-3:]
    required = {n for n, p in taken.items() if p.default is p.empty}
    clock = next((n for n in TIMES if n in taken), None)
    made: dict[str, Callable[[], Any]] = {
        **{n: lambda: torch.ones(batch) for n in TIMES if n == clock or n in required},
        **{n: lambda: torch.ones(batch, length).bool() for n in MASKS if masks or n in required},
        **{n: lambda: torch.zeros(batch, 2) for n in ("original_size", "target_size", "crop_coords")},
        "img_ids": lambda: torch.zeros(layout.tokens, axes),
        "txt_ids": lambda: torch.zeros(length, axes),
        "img_shapes": lambda: [[(time, height, width)]] * batch,
        "txt_seq_lens": lambda: [length] * batch,
        "num_frames": lambda: time,
        "height": lambda: height,
        "width": lambda: width,
        "class_labels": lambda: torch.zeros(batch, dtype=torch.int64),
        "added_cond_kwargs": lambda: {"resolution": None, "aspect_ratio": None},
        "return_dict": lambda: False,
    }
    if True in (config.get("guidance_embeds"), config.get("guidance_embed")):
        made["guidance"] = lambda: torch.ones(batch)
    return {name: make() for name, make in made.items() if name in taken}


def _layouts(config: Mapping[str, Any], sizes: Sizes) -> list[_Layout]:
    """Channels before pixels, frames before them, tokens, a line of samples; likely ones first."""
    channels = next(iter(_numbers(config, CHANNELS)), 4)
    patch = config.get("patch_size") or 1
    time, *plane = patch if isinstance(patch, Sequence) else (config.get("patch_size_t") or 1, patch, patch)
    batch = sizes.batch or 1
    clip = sizes.frames is not None
    high, wide = sizes.height or PIXELS[0], sizes.width or PIXELS[1]
    latents = (high // SPATIAL, wide // SPATIAL)
    frames = (((sizes.frames or 1) - 1) // TEMPORAL + 1) if clip else 1
    grid = tuple(size // by for size, by in zip(latents, plane, strict=False))
    packed = tuple(size // 2 for size in latents)  # what takes tokens is given them two by two pixels
    picture = _Layout((batch, channels, *latents), grid)
    moving = _Layout((batch, channels, frames, *latents), (frames // int(time), *grid))
    first = _Layout((batch, frames, channels, *latents), (frames // int(time), *grid))
    tokens = _Layout((batch, frames * packed[0] * packed[1], channels), (frames, *packed) if clip else packed)
    side = config.get("sample_size")
    line = _Layout((batch, channels, side if isinstance(side, int) else SECONDS), (1,))
    found = [tokens, picture, moving, first, line]
    return [moving, first, tokens, picture] if clip else found


def _numbers(config: Mapping[str, Any], names: Sequence[str]) -> list[int]:
    found = [config.get(name) for name in names]
    return list(dict.fromkeys(n for n in found if isinstance(n, int) and not isinstance(n, bool)))
