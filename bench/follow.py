"""What it brings that `uncond` follows `cond`: FLOPs and PSNR of the embedded model with true guidance.

    python -m bench.follow F4B0_W4M0MC3_T1O1_R0.3

Ten pictures, one of each class, drawn one by one; each setting as it is, and with `follow`.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import fxcache
from fxcache import CacheConfig, CachedTransformer, ContextStats, embedded
from fxcache.calibration.results import psnr
from fxcache.runtime.stats import speedup

FIRST_SEED = 2000


def draw(config: CacheConfig | None, steps: int, guidance: float) -> tuple[Tensor, float]:
    """Pictures [10, 1, 28, 28] in [-1, 1], and how many times fewer FLOPs they took."""
    pipe = embedded.load_pipeline()
    if config is not None:
        fxcache.transform(pipe, config)
    images: list[Tensor] = []
    found: list[ContextStats] = []
    for label in range(len(embedded.CLASS_NAMES)):
        seeds, given = [FIRST_SEED + label], {"num_inference_steps": steps, "guidance_scale": guidance}
        images.append(embedded.sample(pipe, [label], seeds=seeds, **given))  # type: ignore[arg-type]
        if isinstance(pipe.transformer, CachedTransformer):
            found += pipe.transformer.stats().contexts.values()
    return torch.cat(images), speedup(found) if found else 1.0


def main() -> None:
    """Print a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("settings", nargs="+", help="in the notation")
    options.add_argument("--steps", type=int, default=28)
    options.add_argument("--guidance", type=float, default=3.0)
    given = options.parse_args()
    plain, _ = draw(None, given.steps, given.guidance)
    print("| setting | each decides | `uncond` follows `cond` |\n| --- | --- | --- |")
    for text in given.settings:
        cells = [f"`{text}`"]
        for follow in ({}, {"uncond": "cond"}):
            config = CacheConfig.from_string(text).replace(follow=follow)
            images, faster = draw(config, given.steps, given.guidance)
            decibels = psnr(list((plain + 1) / 2), list((images + 1) / 2))
            cells.append(f"{faster:.2f}x {sum(decibels) / len(decibels):.1f} / {min(decibels):.1f}")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
