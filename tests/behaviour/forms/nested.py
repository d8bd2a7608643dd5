"""Blocks that take dataclasses and return tuples within tuples, by codebases that carry a lot about.

What goes from block to block is a bundle; constants, None and strings travel beside the tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .form import Call, Form, drift, fixed, frequencies

WIDTH = 16


@dataclass(frozen=True)
class Conditioning:
    """What all blocks are given."""

    time: Tensor
    text: Tensor
    mask: Tensor | None
    kind: str = "video"


@dataclass
class Streams:
    """What they hand on."""

    video: Tensor
    audio: Tensor
    positions: tuple[Tensor, Tensor]


class Extra(NamedTuple):
    norm: Tensor
    label: str


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.video, self.audio, self.time = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(
        self, streams: Streams, conditioning: Conditioning
    ) -> tuple[tuple[Tensor, tuple[Tensor]], Extra, None]:
        video, audio = streams.video, streams.audio
        time = self.time(conditioning.time)[:, None]
        video = video + (self.video(video + streams.positions[0]) * time + audio.mean(1, keepdim=True)).tanh()
        if conditioning.kind == "video" and conditioning.mask is not None:
            video = video.masked_fill(conditioning.mask[..., None], 0.0)
        audio = audio + (self.audio(audio + streams.positions[1]) + conditioning.text).sin()
        return (video, (audio,)), Extra(video.norm(dim=-1), "kept"), None


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.video_in, self.audio_in, self.time = (
            nn.Linear(4, WIDTH),
            nn.Linear(3, WIDTH),
            nn.Linear(8, WIDTH),
        )
        self.blocks = nn.ModuleList(Block() for _ in range(5))
        self.video_out, self.audio_out = nn.Linear(WIDTH, 4), nn.Linear(WIDTH, 3)

    def forward(
        self, latents: dict[str, Tensor], timestep: Tensor, conditioning: Conditioning
    ) -> dict[str, Tensor | list[Tensor]]:
        conditioning = replace(conditioning, time=self.time(frequencies(timestep, 8)))
        video, audio = self.video_in(latents["video"]), self.audio_in(latents["audio"])
        positions = tuple(
            frequencies(torch.arange(s.shape[1], device=s.device), WIDTH)[None] for s in (video, audio)
        )
        streams, norms = Streams(video, audio, (positions[0], positions[1])), []
        for block in self.blocks:
            (video, (audio,)), extra, _ = block(streams, conditioning=conditioning)
            streams = replace(streams, video=video, audio=audio)
            norms.append(extra.norm)
        return {"video": self.video_out(video), "audio": self.audio_out(audio), "norms": norms[-1:]}


def call(done: float) -> Call:
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[:, -1] = True
    return {
        "latents": {"video": drift(done, 2, 6, 4), "audio": drift(done, 2, 5, 3, seed=4)},
        "timestep": torch.full((2,), 1000 * (1.0 - done)),
        "conditioning": Conditioning(torch.zeros(2), fixed(2, 5, WIDTH), mask),
    }


FORM = Form(Nested, call, blocks=5, free=("latents['video'][1]", "conditioning.text[1]"))
