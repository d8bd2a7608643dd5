"""What the cache costs: nothing cached against the plain model, a cached step against its minimum.

    python -m bench.overhead [--rounds 60]

Everything is measured in one process, interleaved, one thread; the table gives ratios of medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import Tensor, nn

import fxcache
from fxcache import CacheConfig


def flux(width: int) -> FluxTransformer2DModel:
    """A FLUX of 4 + 8 blocks with random weights."""
    return network(width, 4, 8)


def network(width: int, dual: int, single: int, text: int = 64) -> FluxTransformer2DModel:
    """A FLUX of `dual` + `single` blocks with random weights."""
    heads = width // 32
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=dual,
        num_single_layers=single,
        attention_head_dim=32,
        num_attention_heads=heads,
        joint_attention_dim=text,
        pooled_projection_dim=text,
        axes_dims_rope=(8, 12, 12),
    )
    return model.eval().requires_grad_(False)


def inputs(
    tokens: int, prompt: int, text: int = 64, channels: int = 16, pooled: int | None = None
) -> dict[str, Any]:
    """Arguments of a call but for the timestep."""
    return {
        "hidden_states": torch.randn(1, tokens, channels),
        "encoder_hidden_states": torch.randn(1, prompt, text),
        "pooled_projections": torch.randn(1, pooled or text),
        "img_ids": torch.zeros(tokens, 3),
        "txt_ids": torch.zeros(prompt, 3),
        "return_dict": False,
    }


class Minimum(nn.Module):
    """The least that a cached step with Fn = 1 must do: embed, one block, head."""

    def __init__(self, model: FluxTransformer2DModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        img_ids: Tensor,
        txt_ids: Tensor,
        guidance: Tensor | None = None,
        return_dict: bool = False,
    ) -> Tensor:
        m = self.model
        hidden_states = m.x_embedder(hidden_states)
        guided = () if guidance is None else (guidance * 1000,)
        temb = m.time_text_embed(timestep * 1000, *guided, pooled_projections)
        encoder_hidden_states = m.context_embedder(encoder_hidden_states)
        rotary = m.pos_embed(torch.cat((txt_ids, img_ids)))
        _, hidden_states = m.transformer_blocks[0](
            hidden_states=hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            temb=temb,
            image_rotary_emb=rotary,
            joint_attention_kwargs=None,
        )
        return m.proj_out(m.norm_out(hidden_states, temb))


NEVER = CacheConfig(fn_compute_blocks=1, max_warmup_steps=0, residual_diff_threshold=0.0)
ALWAYS = CacheConfig(fn_compute_blocks=1, max_warmup_steps=1, residual_diff_threshold=1e9)


BURST = 5


def turns(names: Sequence[str], total: int) -> Iterator[tuple[str, range]]:
    """Who is called next, and for which steps: a turn is `BURST` calls, as a sampling loop makes them, and
    each round another begins."""
    for turn in range(0, total, BURST):
        shift = turn // BURST % len(names)
        for name in [*names[shift:], *names[:shift]]:
            yield name, range(turn, turn + BURST)


def interleaved(
    models: Mapping[str, Callable[..., Any]], arguments: dict[str, Any], rounds: int, warmup: int = 5
) -> dict[str, float]:
    """Median seconds of a call of each model, called in turn with falling timesteps.

    Seconds are the processor's: on one thread that is what a call took, whatever else the machine does.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    total = rounds + warmup
    with torch.no_grad():
        for name, steps in turns(list(models), total):
            for i in steps:
                call = {**arguments, "timestep": torch.full((1,), 1 - i / (total + BURST))}
                begin = time.process_time()
                models[name](**call)
                times[name].append(time.process_time() - begin)
    return {name: statistics.median(t[warmup:]) for name, t in times.items()}


def schedule(
    model: nn.Module, arguments: dict[str, Any], rounds: int, compiled: bool = False
) -> tuple[float, float]:
    """(measured speedup, FLOPs ideal) of a fixed schedule that computes every fourth step."""
    config = CacheConfig(fn_compute_blocks=1, steps_mask=(1, 0, 0, 0) * 5, steps_mask_policy="static")
    cached = fxcache.transform(model, config)
    if compiled:
        cached = fxcache.compile(cached)
    times: dict[str, list[float]] = {"plain": [], "cached": []}
    runs: dict[str, Callable[..., Any]] = {
        "plain": torch.compile(model, fullgraph=True) if compiled else model,
        "cached": cached,
    }
    with torch.no_grad():
        for run in runs.values():  # compile, settle
            for i in range(4):
                run(**arguments, timestep=torch.full((1,), 1 - i / 20))
        cached.reset()
        for _ in range(rounds):
            for name, run in runs.items():
                begin = time.process_time()
                for i in range(20):
                    run(**arguments, timestep=torch.full((1,), 1 - i / 20))
                times[name].append(time.process_time() - begin)
    stats = next(iter(cached.stats().contexts.values()))
    assert stats.flops_done is not None and stats.flops_saved is not None
    ideal = (stats.flops_done + stats.flops_saved) / stats.flops_done
    return statistics.median(times["plain"]) / statistics.median(times["cached"]), ideal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| model | nothing cached / plain | cached step / its minimum |\n| --- | --- | --- |")
    for label, width, tokens, prompt in (
        ("512 wide, 320 tokens", 512, 256, 64),
        ("128 wide, 57 tokens", 128, 49, 8),
    ):
        model, arguments = flux(width), inputs(tokens, prompt)
        found = interleaved(
            {
                "plain": model,
                "nothing": fxcache.transform(model, NEVER),
                "minimum": Minimum(model),
                "cached": fxcache.transform(model, ALWAYS),
            },
            arguments,
            rounds if width == 512 else 5 * rounds,
        )
        overhead, step = found["nothing"] / found["plain"], found["cached"] / found["minimum"]
        print(f"| FLUX 4+8 blocks, {label} | {overhead:.3f} | {step:.3f} |")
    speedup, ideal = schedule(flux(512), inputs(256, 64), max(3, rounds // 15))
    share = f"FLOPs ideal {ideal:.2f}x, share {speedup / ideal:.3f}"
    print(f"\nevery fourth step computed, 512 wide: {speedup:.2f}x, {share}")


if __name__ == "__main__":
    main()
