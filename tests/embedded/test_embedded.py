"""The embedded model loads offline, draws the classes asked for, and draws them reproducibly."""

import numpy as np
import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline

from fxcache import embedded

ALL_CLASSES = range(10)


@pytest.fixture(scope="module")
def pipe() -> FluxPipeline:
    return embedded.load_pipeline()


def test_transformer_loads_in_the_dtype_asked_for() -> None:
    model = embedded.load_transformer(torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert not model.training
    assert sum(p.numel() for p in model.parameters()) == 4_460_560


def test_pipeline_uses_the_transformer_it_is_given() -> None:
    model = embedded.load_transformer()
    assert embedded.load_pipeline(model).transformer is model


def test_classifier_sees_the_classes_asked_for(pipe: FluxPipeline) -> None:
    images = embedded.sample(pipe, ALL_CLASSES, num_inference_steps=8, guidance_scale=2.0)
    assert images.shape == (10, 1, 28, 28)
    assert images.min() >= -1 and images.max() <= 1
    found = embedded.agreement(embedded.load_classifier(), images, ALL_CLASSES)
    assert found.exact >= 0.8
    assert found.merged >= found.exact


def test_guidance_changes_the_picture(pipe: FluxPipeline) -> None:
    plain = embedded.sample(pipe, [5], num_inference_steps=2)
    guided = embedded.sample(pipe, [5], num_inference_steps=2, guidance_scale=2.0)
    assert not torch.allclose(plain, guided, atol=1e-2)


def test_a_picture_does_not_depend_on_its_batch(pipe: FluxPipeline) -> None:
    labels, seeds = [3, 8, 8, 1], [11, 12, 13, 14]
    together = embedded.sample(pipe, labels, seeds=seeds, num_inference_steps=4)
    apart = [
        embedded.sample(pipe, labels[part], seeds=seeds[part], num_inference_steps=4)
        for part in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(torch.cat(apart), together, atol=1e-4, rtol=0)
    assert not torch.allclose(together[1], together[2], atol=1e-2)  # one class, two seeds


def test_a_generator_goes_on_where_the_last_batch_stopped(pipe: FluxPipeline) -> None:
    whole, split = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    together = embedded.sample(pipe, [2, 7], generator=whole, num_inference_steps=2)
    apart = [embedded.sample(pipe, [label], generator=split, num_inference_steps=2) for label in (2, 7)]
    torch.testing.assert_close(torch.cat(apart), together, atol=1e-4, rtol=0)


def test_callback_sees_every_step(pipe: FluxPipeline) -> None:
    seen: list[tuple[int, float, torch.Size]] = []
    embedded.sample(
        pipe,
        [0, 9],
        num_inference_steps=3,
        callback=lambda step, timestep, latents: seen.append((step, timestep, latents.shape)),
    )
    steps, timesteps, shapes = zip(*seen, strict=True)
    assert steps == (0, 1, 2)
    assert 1000.0 == timesteps[0] > timesteps[1] > timesteps[2] > 0
    assert set(shapes) == {(2, 49, 16)}


def test_the_pipeline_decodes_pictures_itself(pipe: FluxPipeline) -> None:
    prompt, pooled = embedded.class_embeddings([4])
    images = pipe(
        prompt_embeds=prompt,
        pooled_prompt_embeds=pooled,
        height=28,
        width=28,
        num_inference_steps=1,
    ).images
    assert (images[0].size, images[0].mode) == ((28, 28), "L")


def test_latents_are_packed_as_the_pipeline_packs_them() -> None:
    images = torch.randn(3, 1, 28, 28)
    planes = embedded.PixelShuffleVAE().encode(images)
    packed = FluxPipeline._pack_latents(planes, 3, 4, 14, 14)
    assert torch.equal(embedded.to_latents(images), packed)
    assert torch.equal(embedded.to_images(packed), images)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"labels": [11]}, r"labels must be .* 0\.\.10"),
        ({"labels": []}, "one or more"),
        ({"labels": [1, 2], "seeds": [0]}, "as many seeds"),
        ({"labels": [1], "seeds": [0], "generator": torch.Generator()}, "not both"),
        ({"labels": [1], "guidance_scale": 0.5}, "at least 1"),
    ],
)
def test_misuse_is_refused(pipe: FluxPipeline, arguments: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        embedded.sample(pipe, **arguments)


def test_grid_frames_each_picture_and_fills_the_last_row() -> None:
    sheet = embedded.grid(torch.ones(7, 1, 28, 28), columns=5, scale=3)
    assert sheet.size == (5 * 30 * 3, 2 * 30 * 3)
    pixels = np.asarray(sheet)
    assert pixels[45, 45] == 255
    assert pixels[90 + 45, 4 * 90 + 45] == pixels[0, 0] < 64
    assert embedded.to_pil(torch.full((1, 28, 28), -1.0)).getextrema() == (0, 0)


def test_features_and_logits_have_their_shapes() -> None:
    classifier = embedded.load_classifier()
    images = torch.zeros(2, 1, 28, 28)
    assert embedded.features(classifier, images).shape == (2, 128)
    assert embedded.logits(classifier, images).shape == (2, 10)
