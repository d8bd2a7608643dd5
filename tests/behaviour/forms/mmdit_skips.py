"""As SD3.5's own code writes it: a list of layers to leave out, for guidance by a model that is worse.

Sampling calls it three times a step: with text, without, and with text but some layers left out. A list as a
default value, residuals of a ControlNet that are spread over the blocks, a last block that drops the text.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .form import Call, Form, drift, fixed, frequencies

WIDTH = 16


class JointBlock(nn.Module):
    def __init__(self, last: bool) -> None:
        super().__init__()
        self.last = last
        self.x, self.context, self.c = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, context: Tensor, x: Tensor, c: Tensor) -> tuple[Tensor | None, Tensor]:
        both = torch.cat((self.context(context), self.x(x)), dim=1)
        mixed = both.softmax(1) * both.shape[1] + self.c(c)[:, None]
        x = x + mixed[:, context.shape[1] :].tanh()
        return (None if self.last else context + mixed[:, : context.shape[1]].sin()), x


class MMDiT(nn.Module):
    def __init__(self, depth: int = 5) -> None:
        super().__init__()
        self.patch = nn.Conv2d(4, WIDTH, 2, 2)
        self.pos_embed = nn.Parameter(torch.randn(1, 16, 16, WIDTH))
        self.time, self.pooled, self.text = nn.Linear(8, WIDTH), nn.Linear(5, WIDTH), nn.Linear(6, WIDTH)
        self.joint_blocks = nn.ModuleList(JointBlock(i == depth - 1) for i in range(depth))
        self.final = nn.Linear(WIDTH, 16)

    def cropped_pos_embed(self, height: int, width: int) -> Tensor:
        top, left = (16 - height) // 2, (16 - width) // 2
        return self.pos_embed[:, top : top + height, left : left + width].flatten(1, 2)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        context: Tensor | None = None,
        controlnet_hidden_states: Tensor | None = None,
        skip_layers: list[int] | None = [],  # noqa: B006
    ) -> Tensor:
        height, width = x.shape[-2] // 2, x.shape[-1] // 2
        h = self.patch(x).flatten(2).transpose(1, 2) + self.cropped_pos_embed(height, width)
        c = self.time(frequencies(t, 8))
        if y is not None:
            c = c + self.pooled(y)
        context = self.text(context)
        for i, block in enumerate(self.joint_blocks):
            if i in skip_layers:
                continue
            context, h = block(context, h, c=c)
            if controlnet_hidden_states is not None:
                spread = len(self.joint_blocks) / controlnet_hidden_states.shape[0]
                h = h + controlnet_hidden_states[int(i / spread)]
        h = self.final(h).unflatten(1, (height, width)).unflatten(-1, (2, 2, 4))
        return torch.einsum("nhwpqc->nchpwq", h).flatten(2, 3).flatten(3, 4)


def call(done: float, skipped: tuple[int, ...] = ()) -> Call:
    given = {
        "x": drift(done, 2, 4, 6, 8),
        "t": torch.full((2,), 1000 * (1.0 - done)),
        "y": fixed(2, 5),
        "context": fixed(2, 5, 6, seed=2),
        "controlnet_hidden_states": fixed(2, 2, 12, WIDTH, seed=3),
    }
    return {**given, "skip_layers": list(skipped)} if skipped else given


FORM = Form(MMDiT, call, blocks=5, free=("x[0]", "x[2]", "x[3]", "context[1]"))
SKIPPING = Form(MMDiT, lambda done: call(done, (1, 2)), blocks=3)
