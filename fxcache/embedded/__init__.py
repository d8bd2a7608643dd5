"""A small trained diffusion transformer that ships with the package.

4.5M-parameter `FluxTransformer2DModel`, class-conditional Fashion-MNIST, sampled by the real
diffusers `FluxPipeline`. It needs no network and a picture takes well under a second on one CPU
core, so a claim about caching can be checked on real denoising trajectories anywhere.

Example:
    >>> from fxcache import embedded
    >>> pipe = embedded.load_pipeline()
    >>> images = embedded.sample(pipe, [1, 7], guidance_scale=2.0, num_inference_steps=2)
    >>> images.shape  # in [-1, 1]
    torch.Size([2, 1, 28, 28])
    >>> embedded.grid(images).save("classes.png")
"""

from .classifier import Agreement, Classifier, agreement, features, load_classifier, logits
from .conditioning import CLASS_NAMES, NULL_CLASS, StepCallback, class_embeddings, sample
from .example import example_inputs
from .latents import to_images, to_latents
from .model import load_transformer
from .pictures import grid, to_pil
from .pipeline import PixelShuffleVAE, load_pipeline

__all__ = [
    "CLASS_NAMES",
    "NULL_CLASS",
    "Agreement",
    "Classifier",
    "PixelShuffleVAE",
    "StepCallback",
    "agreement",
    "class_embeddings",
    "example_inputs",
    "features",
    "grid",
    "load_classifier",
    "load_pipeline",
    "load_transformer",
    "logits",
    "sample",
    "to_images",
    "to_latents",
    "to_pil",
]
