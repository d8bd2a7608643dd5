"""Tiny random-weight instances, with inputs, of every transformer class of diffusers."""

from . import (
    audio,
    audio_video,
    autoregressive,
    cog,
    cosmos,
    dit,
    flux,
    flux2,
    hunyuan,
    image,
    kandinsky,
    lumina,
    mmdit,
    protein,
    qwen,
    sana,
    unet_era,
    video,
    wan,
    wan_animate,
)
from .case import ZooCase

__all__ = ["ALL_CASES", "ZooCase", "find"]

ALL_CASES: tuple[ZooCase, ...] = (
    *flux.CASES,
    *flux2.CASES,
    *mmdit.CASES,
    *qwen.CASES,
    *cog.CASES,
    *hunyuan.CASES,
    *wan.CASES,
    *wan_animate.CASES,
    *autoregressive.CASES,
    *video.CASES,
    *audio_video.CASES,
    *kandinsky.CASES,
    *cosmos.CASES,
    *sana.CASES,
    *dit.CASES,
    *lumina.CASES,
    *image.CASES,
    *unet_era.CASES,
    *audio.CASES,
    *protein.CASES,
)


def find(name: str) -> ZooCase:
    """The case called ``name`` (``Class`` or ``Class:variant``)."""
    for case in ALL_CASES:
        if case.name == name:
            return case
    raise KeyError(f"no zoo case is called {name!r}; tests.behaviour.zoo.ALL_CASES lists them")
