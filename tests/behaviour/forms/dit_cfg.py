"""As DiT writes it: a second entry point, which guides. Both halves of the batch are one sample.

A sampler calls `model.forward_with_cfg`; only some of the channels are guided, and the strength is a number.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .form import Call, Form, drift, frequencies

WIDTH = 16


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(WIDTH, elementwise_affine=False), nn.Linear(WIDTH, WIDTH)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 3 * WIDTH))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(c).chunk(3, dim=1)
        hidden = self.norm(x) * (1 + scale[:, None]) + shift[:, None]
        return x + gate[:, None] * (self.mix(hidden).tanh() + hidden.mean(1, keepdim=True))


class DiT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x_embedder = nn.Conv2d(4, WIDTH, 2, 2)
        self.t_embedder, self.y_embedder = nn.Linear(8, WIDTH), nn.Embedding(11, WIDTH)
        self.pos_embed = nn.Parameter(torch.randn(1, 9, WIDTH), requires_grad=False)
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.final_layer = nn.Linear(WIDTH, 32)

    def unpatchify(self, x: Tensor) -> Tensor:
        side = int(x.shape[1] ** 0.5)
        assert side * side == x.shape[1]
        x = x.reshape(x.shape[0], side, side, 2, 2, 8)
        return torch.einsum("nhwpqc->nchpwq", x).reshape(x.shape[0], 8, 2 * side, 2 * side)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        x = self.x_embedder(x).flatten(2).transpose(1, 2) + self.pos_embed
        c = self.t_embedder(frequencies(t, 8)) + self.y_embedder(y)
        for block in self.blocks:
            x = block(x, c)
        return self.unpatchify(self.final_layer(x))

    def forward_with_cfg(self, x: Tensor, t: Tensor, y: Tensor, cfg_scale: float) -> Tensor:
        half = x[: len(x) // 2]
        combined = torch.cat([half, half], dim=0)
        model_out = self.forward(combined, t, y)
        eps, rest = model_out[:, :3], model_out[:, 3:]
        cond_eps, uncond_eps = torch.split(eps, len(eps) // 2, dim=0)
        half_eps = uncond_eps + cfg_scale * (cond_eps - uncond_eps)
        return torch.cat([torch.cat([half_eps, half_eps], dim=0), rest], dim=1)


def call(done: float) -> Call:
    return {
        "x": drift(done, 1, 4, 6, 6).repeat(2, 1, 1, 1),
        "t": torch.full((2,), 1000 * (1.0 - done)),
        "y": torch.tensor([3, 10]),
        "cfg_scale": 4.0,
    }


FORM = Form(
    DiT,
    call,
    blocks=4,
    options={"method": "forward_with_cfg"},
    method="forward_with_cfg",
)
