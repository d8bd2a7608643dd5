"""A second trained diffusion transformer, of another kind than the embedded one.

3.9M-parameter `PixArtTransformer2DModel`, emoji by Unicode group, sampled by the real diffusers
`PixArtAlphaPipeline` with DPM-Solver++. A claim about caching that was tuned to the embedded model
can be checked here.

Example:
    >>> from bench import emoji_pixart
    >>> model = emoji_pixart.load()
    >>> emoji_pixart.sample(model, seeds=[7, 8], steps=2, guidance=3.0).shape
    torch.Size([2, 3, 32, 32])
"""

from .conditioning import CLASS_NAMES, NULL_CLASS
from .model import load
from .pipeline import draw, load_pipeline, new_scheduler, sample
from .subject import subject

__all__ = ["CLASS_NAMES", "NULL_CLASS", "draw", "load", "load_pipeline", "new_scheduler", "sample", "subject"]
