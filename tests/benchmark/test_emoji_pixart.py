"""The emoji model loads offline, draws what it is asked for, and is itself under the pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models import PixArtTransformer2DModel

import fxcache
from bench import emoji_pixart

OTHER_SCHEDULERS = ("ddim", "euler", "unipc")


@pytest.fixture(scope="module")
def model() -> PixArtTransformer2DModel:
    return emoji_pixart.load()


@pytest.mark.parametrize(("scheduler", "guidance"), [("dpm++", 3.0), ("unipc", 1.0)])
def test_nothing_cached_is_the_plain_picture(
    model: PixArtTransformer2DModel, scheduler: Any, guidance: float
) -> None:
    cached = fxcache.transform(model, fxcache.CacheConfig(fn_compute_blocks=3, residual_diff_threshold=0))
    plain, passed = (
        emoji_pixart.sample(subject, [7, 8], steps=4, scheduler=scheduler, guidance=guidance)
        for subject in (model, cached)
    )
    assert torch.equal(plain, passed)
    assert [(c.steps, c.cached_steps) for c in cached.stats().contexts.values()] == [(4, ())]


def test_faces_are_yellow_on_white(model: PixArtTransformer2DModel) -> None:
    faces = emoji_pixart.sample(model, range(4), [0] * 4, steps=10, guidance=3.0)
    assert faces.shape == (4, 3, 32, 32) and faces.dtype == torch.float32
    assert faces.min() >= 0 and faces.max() <= 1
    red, green, blue = faces[:, :, 10:22, 10:22].mean((0, 2, 3))
    assert red > green > blue + 0.2
    assert faces[:, :, :2, :2].mean() > 0.95


@pytest.mark.parametrize("scheduler", OTHER_SCHEDULERS)
def test_schedulers_agree_on_the_picture(model: PixArtTransformer2DModel, scheduler: Any) -> None:
    """Each solves the same equation from the same noise."""
    exact = emoji_pixart.sample(model, [3], steps=40)
    other = emoji_pixart.sample(model, [3], steps=40, scheduler=scheduler)
    assert (exact - other).abs().mean() < 0.05


def test_a_picture_does_not_depend_on_its_batch(model: PixArtTransformer2DModel) -> None:
    together = emoji_pixart.sample(model, [11, 12, 13], [4, 9, 9], steps=3, guidance=2.0)
    apart = emoji_pixart.sample(model, [12], [9], steps=3, guidance=2.0)
    torch.testing.assert_close(together[1:2], apart, atol=1e-4, rtol=0)
    assert not torch.allclose(together[1], together[2], atol=1e-2)  # one class, two seeds


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"seeds": [0], "classes": [11]}, r"classes must be .* 0\.\.10"),
        ({"seeds": []}, "one or more"),
        ({"seeds": [0], "classes": [1, 2]}, "1 seeds need as many classes"),
        ({"seeds": [0], "guidance": 0.5}, "at least 1"),
        ({"seeds": [0], "scheduler": "heun"}, "dpm\\+\\+, ddim, euler or unipc"),
    ],
)
def test_misuse_is_refused(model: PixArtTransformer2DModel, arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        emoji_pixart.sample(model, **arguments)
