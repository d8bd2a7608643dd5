"""As U-ViT writes it: a way in, a middle, a way out, and long skips from each block in to its twin out.

Each block goes through activation checkpointing where it is told to, so that what is called is not what holds
the code; class labels are a token; the skips are a list that is filled and then popped.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .form import Call, Form, drift, frequencies

WIDTH = 16


class Block(nn.Module):
    def __init__(self, skip: bool = False, use_checkpoint: bool = False) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.skip_linear = nn.Linear(2 * WIDTH, WIDTH) if skip else None
        self.use_checkpoint = use_checkpoint

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if self.use_checkpoint:
            return checkpoint(self._forward, x, skip, use_reentrant=False)
        return self._forward(x, skip)

    def _forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if self.skip_linear is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        return x + self.mix(self.norm(x)).tanh() + x.mean(1, keepdim=True)


class UViT(nn.Module):
    def __init__(self, depth: int = 6, use_checkpoint: bool = True) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(4, WIDTH, 2, 2)
        self.label_emb = nn.Embedding(10, WIDTH)
        self.pos_embed = nn.Parameter(torch.randn(1, 2 + 9, WIDTH))
        self.in_blocks = nn.ModuleList(Block(False, use_checkpoint) for _ in range(depth // 2))
        self.mid_block = Block(False, use_checkpoint)
        self.out_blocks = nn.ModuleList(Block(True, use_checkpoint) for _ in range(depth // 2))
        self.norm, self.decoder_pred = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 16)
        self.final_layer = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        _, tokens, _ = x.shape
        x = torch.cat((frequencies(timesteps, WIDTH).unsqueeze(1), x), dim=1)
        if y is not None:
            x = torch.cat((self.label_emb(y).unsqueeze(1), x), dim=1)
        x = x + self.pos_embed
        extras = x.shape[1] - tokens
        skips = []
        for block in self.in_blocks:
            x = block(x)
            skips.append(x)
        x = self.mid_block(x)
        for block in self.out_blocks:
            x = block(x, skips.pop())
        x = self.decoder_pred(self.norm(x))
        assert x.size(1) == extras + tokens
        side = int(tokens**0.5)
        x = x[:, extras:].unflatten(1, (side, side)).unflatten(-1, (2, 2, 4))
        return self.final_layer(torch.einsum("bhwpqc->bchpwq", x).flatten(2, 3).flatten(3, 4))


def call(done: float) -> Call:
    return {
        "x": drift(done, 2, 4, 6, 6),
        "timesteps": torch.full((2,), 1000 * (1.0 - done)),
        "y": torch.tensor([3, 7]),
    }


def plain() -> UViT:
    return UViT(use_checkpoint=False)


FORM = Form(UViT, call, blocks=6, free=("x[0]",))
PLAIN = Form(plain, call, blocks=6)
NAMED = Form(UViT, call, blocks=7, options={"blocks": ("in_blocks", "mid_block", "out_blocks")})
