"""As F5-TTS writes it: the text's embedding is kept on the module from the first call of a sentence on.

The caller empties that memo between sentences. One call does both of guidance's passes (`cfg_infer`), and
time comes as a tensor without dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .form import Call, Form, drift, fixed, frequencies

WIDTH = 16


class TextEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.text_embed = nn.Embedding(21, WIDTH)  # 0 is a filler
        self.text_blocks = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(2)))

    def forward(self, text: Tensor, seq_len: int, drop_text: bool = False) -> Tensor:
        text = text + 1  # what pads it is -1
        text = text[:, :seq_len]
        text = functional.pad(text, (0, seq_len - text.shape[1]), value=0)
        if drop_text:
            text = torch.zeros_like(text)
        return self.text_blocks(self.text_embed(text))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix, self.time = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, t: Tensor, mask: Tensor | None = None, rope: Tensor | None = None) -> Tensor:
        hidden = self.mix(self.norm(x) * self.time(t)[:, None] + rope).tanh()
        if mask is not None:
            hidden = hidden.masked_fill(~mask[..., None], 0.0)
        return x + hidden + hidden.mean(1, keepdim=True)


class TextMemo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time_embed, self.text_embed = nn.Linear(8, WIDTH), TextEmbedding()
        self.text_cond: Tensor | None = None
        self.text_uncond: Tensor | None = None
        self.proj = nn.Linear(4 + 4 + WIDTH, WIDTH)
        self.transformer_blocks = nn.ModuleList(Block() for _ in range(4))
        self.proj_out = nn.Linear(WIDTH, 4)

    def get_input_embed(
        self, x: Tensor, cond: Tensor, text: Tensor, drop_audio_cond: bool, drop_text: bool, cache: bool
    ) -> Tensor:
        seq_len = x.shape[1]
        if cache and drop_text:
            if self.text_uncond is None:
                self.text_uncond = self.text_embed(text, seq_len, drop_text=True)
            embedded = self.text_uncond
        elif cache:
            if self.text_cond is None:
                self.text_cond = self.text_embed(text, seq_len, drop_text=False)
            embedded = self.text_cond
        else:
            embedded = self.text_embed(text, seq_len, drop_text=drop_text)
        if drop_audio_cond:
            cond = torch.zeros_like(cond)
        return self.proj(torch.cat((x, cond, embedded), dim=-1))

    def clear_cache(self) -> None:
        self.text_cond, self.text_uncond = None, None

    def forward(
        self,
        x: Tensor,
        cond: Tensor,
        text: Tensor,
        time: Tensor,
        mask: Tensor | None = None,
        drop_audio_cond: bool = False,
        drop_text: bool = False,
        cfg_infer: bool = False,
        cache: bool = False,
    ) -> Tensor:
        batch, seq_len = x.shape[0], x.shape[1]
        if time.ndim == 0:
            time = time.repeat(batch)
        t = self.time_embed(frequencies(time, 8))
        if cfg_infer:
            x_cond = self.get_input_embed(x, cond, text, False, False, cache)
            x_uncond = self.get_input_embed(x, cond, text, True, True, cache)
            x = torch.cat((x_cond, x_uncond), dim=0)
            t = torch.cat((t, t), dim=0)
            mask = torch.cat((mask, mask), dim=0) if mask is not None else None
        else:
            x = self.get_input_embed(x, cond, text, drop_audio_cond, drop_text, cache)
        rope = frequencies(torch.arange(seq_len), WIDTH)
        for block in self.transformer_blocks:
            x = block(x, t, mask=mask, rope=rope)
        return self.proj_out(x)


def call(done: float, frames: int = 7, sentence: int = 1) -> Call:
    return {
        "x": drift(done, 1, frames, 4),
        "cond": fixed(1, frames, 4),
        "text": torch.randint(0, 20, (1, 5), generator=torch.Generator().manual_seed(sentence)),
        "time": torch.tensor(1.0 - done),
        "mask": torch.ones(1, frames, dtype=torch.bool),
        "cfg_infer": True,
        "cache": True,
    }


FORM = Form(TextMemo, call, blocks=4, free=("x[1]", "text[1]"))
