"""As Wan writes it: lists of videos in and out, padded to one length; autocasts of its own; sizes as tensors.

Every video of the list has a shape of its own, kept as a tensor of integers that each block reads back to
lay its rotations out; time is embedded in an autocast to single precision, whatever is around the model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .form import REAL, Call, Form, drift, fixed, frequencies

WIDTH, HEADS, TEXT = 16, 2, 6


@torch.autocast("cpu", enabled=False)
def rotated(x: Tensor, grid_sizes: Tensor, freqs: Tensor) -> Tensor:
    """[batch, tokens, heads, width]: the tokens of each video by its own sizes, padding left alone."""
    found = []
    for i, (frames, height, width) in enumerate(grid_sizes.tolist()):
        tokens = frames * height * width
        pairs = torch.view_as_complex(x[i, :tokens].to(torch.float64).unflatten(-1, (-1, 2)))
        parts = freqs.split([2, 1, 1], dim=1)
        turns = torch.cat(
            [
                parts[0][:frames].view(frames, 1, 1, -1).expand(frames, height, width, -1),
                parts[1][:height].view(1, height, 1, -1).expand(frames, height, width, -1),
                parts[2][:width].view(1, 1, width, -1).expand(frames, height, width, -1),
            ],
            dim=-1,
        ).reshape(tokens, 1, -1)
        found.append(torch.cat([torch.view_as_real(pairs * turns).flatten(2), x[i, tokens:]]))
    return torch.stack(found).float()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.words, self.cross = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.modulation = nn.Parameter(torch.randn(1, 3, WIDTH) / WIDTH**0.5)

    def forward(
        self, x: Tensor, e: Tensor, seq_lens: Tensor, grid_sizes: Tensor, freqs: Tensor, context: Tensor
    ) -> Tensor:
        assert e.dtype == torch.float32
        with torch.autocast("cpu", dtype=torch.float32):
            shift, scale, gate = (self.modulation + e).chunk(3, dim=1)
        q, k, v = self.qkv(self.norm(x) * (1 + scale) + shift).unflatten(-1, (HEADS, -1)).chunk(3, dim=-1)
        q, k = rotated(q, grid_sizes, freqs), rotated(k, grid_sizes, freqs)
        seen = torch.arange(x.shape[1])[None] < seq_lens[:, None]
        y = functional.scaled_dot_product_attention(
            q.transpose(1, 2).to(v.dtype),
            k.transpose(1, 2).to(v.dtype),
            v.transpose(1, 2),
            seen[:, None, None],
        )
        x = x + gate * self.out(y.transpose(1, 2).flatten(2))
        return x + self.cross(x.softmax(-1) * self.words(context).mean(1, keepdim=True))


class Wan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv3d(4, WIDTH, (1, 2, 2), (1, 2, 2))
        self.text_embedding = nn.Linear(5, WIDTH)
        self.time_embedding = nn.Sequential(nn.Linear(8, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 3 * WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.head = nn.Linear(WIDTH, 16)
        angles = torch.outer(torch.arange(32), torch.tensor([1.0, 0.1, 1.0, 1.0], dtype=torch.float64))
        self.freqs = torch.polar(torch.ones_like(angles), angles)  # no buffer: casts would change it

    def forward(self, x: list[Tensor], t: Tensor, context: list[Tensor], seq_len: int) -> list[Tensor]:
        x = [self.patch_embedding(u.unsqueeze(0)) for u in x]
        grid_sizes = torch.stack([torch.tensor(u.shape[2:], dtype=torch.long) for u in x])
        x = [u.flatten(2).transpose(1, 2) for u in x]
        seq_lens = torch.tensor([u.size(1) for u in x], dtype=torch.long)
        assert seq_lens.max() <= seq_len
        h = torch.cat([torch.cat([u, u.new_zeros(1, seq_len - u.size(1), u.size(2))], dim=1) for u in x])
        with torch.autocast("cpu", dtype=torch.float32):
            e = self.time_embedding(frequencies(t, 8).float())
            e0 = self.time_projection(e).unflatten(1, (3, WIDTH))
        padded = [torch.cat([u, u.new_zeros(TEXT - u.size(0), u.size(1))]) for u in context]
        words = self.text_embedding(torch.stack(padded))
        for block in self.blocks:
            h = block(h, e=e0, seq_lens=seq_lens, grid_sizes=grid_sizes, freqs=self.freqs, context=words)
        h = self.head(h + e[:, None])
        out = []
        for u, sizes in zip(h, grid_sizes.tolist(), strict=True):
            video = u[: math.prod(sizes)].view(*sizes, 1, 2, 2, 4)
            out.append(
                torch.einsum("fhwpqrc->cfphqwr", video).reshape(4, sizes[0], 2 * sizes[1], 2 * sizes[2])
            )
        return [u.float() for u in out]


def call(done: float) -> Call:
    return {
        "x": [drift(done, 4, 2, 4, 6), drift(done, 4, 2, 6, 4, seed=5)],
        "t": torch.full((2,), 1000 * (1.0 - done)),
        "context": [fixed(3, 5), fixed(4, 5, seed=2)],
        "seq_len": 12,
    }


FORM = Form(Wan, call, blocks=4, captured=REAL, unless="assert seq_lens.max() <= seq_len")
