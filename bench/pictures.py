"""The picture at the head of the README: plain, a plan, and another setting at as many FLOPs, enlarged.

    python -m bench.pictures --plan bench/plans/flux-28-3.11x.json --other F1B0_W2M0MC4_T0O1_R0.4

Ten pictures of the embedded model, one of each class; each is labelled with its PSNR in dB to the plain one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from torch import Tensor

import fxcache
from fxcache import CacheConfig, CachedTransformer, embedded
from fxcache.calibration.results import psnr
from fxcache.config import as_config

FIRST_SEED = 2000


def draw(config: CacheConfig | None, steps: int) -> tuple[Tensor, float]:
    """Pictures [10, 1, 28, 28] in [-1, 1], and how many times fewer FLOPs they took."""
    pipe = embedded.load_pipeline()
    if config is not None:
        fxcache.transform(pipe, config)
    labels = range(len(embedded.CLASS_NAMES))
    seeds = [FIRST_SEED + label for label in labels]
    images = embedded.sample(pipe, labels, seeds=seeds, num_inference_steps=steps)
    if not isinstance(pipe.transformer, CachedTransformer):
        return images, 1.0
    stats = pipe.transformer.stats()["cond"]
    assert stats.flops_done is not None and stats.flops_saved is not None
    return images, (stats.flops_done + stats.flops_saved) / stats.flops_done


def main() -> None:
    """Draw and save."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--plan", required=True, help="a plan's file, or the notation")
    options.add_argument("--other", required=True, help="the setting to compare with, in the notation")
    options.add_argument("--steps", type=int, default=28)
    options.add_argument("--out", type=Path, default=Path("bench/results/plan.png"))
    given = options.parse_args()
    plain, _ = draw(None, given.steps)
    rows: list[tuple[str, Tensor, list[float] | None]] = [("every step computed", plain, None)]
    for title, text in (("fxcache plan", given.plan), ("best DBCache", given.other)):
        images, speedup = draw(as_config(text), given.steps)
        found = psnr(list((plain + 1) / 2), list((images + 1) / 2))
        rows.append((f"{title}\n{speedup:.1f}x fewer FLOPs\nmean {sum(found) / 10:.1f} dB", images, found))
    figure, axes = plt.subplots(3, 10, figsize=(14, 4.9))
    for row, (title, images, measured) in zip(axes, rows, strict=True):
        for i, axis in enumerate(row):
            axis.imshow(images[i, 0], cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            if measured is not None:
                axis.set_title(f"{measured[i]:.1f} dB", fontsize=10, pad=3)
        row[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=12, labelpad=8)
    figure.tight_layout(pad=0.4, h_pad=0.8)
    figure.savefig(given.out, dpi=80)
    print(f"wrote {given.out}: " + "; ".join(title.replace("\n", ", ") for title, *_ in rows))


if __name__ == "__main__":
    main()
