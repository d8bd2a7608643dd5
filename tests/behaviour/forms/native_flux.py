"""As Flux's own repository writes it: two streams, then one; a vector modulates; ids become rotations.

Named arguments alone, checks of ranks that raise, a dataclass handed about inside of the blocks, rotations in
double precision, and the text's length read back off its tensor to cut the picture out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .form import Call, Form, drift, fixed, frequencies

WIDTH, HEADS = 16, 2


@dataclass
class Shift:
    shift: Tensor
    scale: Tensor
    gate: Tensor

    def apply(self, x: Tensor) -> Tensor:
        return (1 + self.scale) * x + self.shift


class Modulation(nn.Module):
    def __init__(self, double: bool) -> None:
        super().__init__()
        self.double = double
        self.lin = nn.Linear(WIDTH, (6 if double else 3) * WIDTH)

    def forward(self, vec: Tensor) -> tuple[Shift, Shift | None]:
        parts = self.lin(functional.silu(vec))[:, None, :].chunk(6 if self.double else 3, dim=-1)
        return Shift(*parts[:3]), Shift(*parts[3:]) if self.double else None


def rotations(ids: Tensor, dims: tuple[int, ...]) -> Tensor:
    """[batch, tokens, axes] -> [batch, 1, tokens, width / 2, 2, 2]"""
    found = []
    for axis, dim in enumerate(dims):
        rates = 1.0 / (100 ** (torch.arange(0, dim, 2, dtype=torch.float64, device=ids.device) / dim))
        angle = torch.einsum("...n,d->...nd", ids[..., axis].double(), rates)
        matrix = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=-1)
        found.append(matrix.unflatten(-1, (2, 2)).float())
    return torch.cat(found, dim=-3).unsqueeze(1)


def rotated(x: Tensor, pe: Tensor) -> Tensor:
    pairs = x.float().reshape(*x.shape[:-1], -1, 1, 2)
    turned = pe[..., 0] * pairs[..., 0] + pe[..., 1] * pairs[..., 1]
    return turned.reshape(*x.shape).type_as(x)


def attention(qkv: Tensor, pe: Tensor) -> Tensor:
    """[3, batch, heads, tokens, width] -> [batch, tokens, heads * width]"""
    q, k, v = qkv.unbind(0)
    found = functional.scaled_dot_product_attention(rotated(q, pe), rotated(k, pe), v)
    return found.transpose(1, 2).flatten(2)


def heads_of(x: Tensor) -> Tensor:
    return x.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)


class DoubleBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for stream in ("img", "txt"):
            setattr(self, f"{stream}_mod", Modulation(double=True))
            setattr(self, f"{stream}_norm", nn.LayerNorm(WIDTH, elementwise_affine=False))
            setattr(self, f"{stream}_qkv", nn.Linear(WIDTH, 3 * WIDTH))
            setattr(self, f"{stream}_proj", nn.Linear(WIDTH, WIDTH))
            setattr(self, f"{stream}_mlp", nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU("tanh"),
                                                         nn.Linear(2 * WIDTH, WIDTH)))  # fmt: skip

    def forward(self, img: Tensor, txt: Tensor, vec: Tensor, pe: Tensor) -> tuple[Tensor, Tensor]:
        img1, img2 = self.img_mod(vec)
        txt1, txt2 = self.txt_mod(vec)
        qkv = torch.cat((self._heads("txt", txt, txt1), self._heads("img", img, img1)), dim=3)
        attended = attention(qkv, pe)
        txt_part, img_part = attended[:, : txt.shape[1]], attended[:, txt.shape[1] :]
        img = img + img1.gate * self.img_proj(img_part)
        img = img + img2.gate * self.img_mlp(img2.apply(self.img_norm(img)))
        txt = txt + txt1.gate * self.txt_proj(txt_part)
        txt = txt + txt2.gate * self.txt_mlp(txt2.apply(self.txt_norm(txt)))
        return img, txt

    def _heads(self, stream: str, x: Tensor, mod: Shift) -> Tensor:
        return heads_of(getattr(self, f"{stream}_qkv")(mod.apply(getattr(self, f"{stream}_norm")(x))))


class SingleBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.modulation = Modulation(double=False)
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.linear1 = nn.Linear(WIDTH, 5 * WIDTH)
        self.linear2 = nn.Linear(3 * WIDTH, WIDTH)

    def forward(self, x: Tensor, vec: Tensor, pe: Tensor) -> Tensor:
        mod, _ = self.modulation(vec)
        qkv, mlp = torch.split(self.linear1(mod.apply(self.norm(x))), [3 * WIDTH, 2 * WIDTH], dim=-1)
        both = torch.cat((attention(heads_of(qkv), pe), functional.gelu(mlp, approximate="tanh")), 2)
        return x + mod.gate * self.linear2(both)


class Embedder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_layer, self.out_layer = nn.Linear(width, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(functional.silu(self.in_layer(x)))


class NativeFlux(nn.Module):
    def __init__(self, guidance_embed: bool = True) -> None:
        super().__init__()
        self.guidance_embed = guidance_embed
        self.img_in, self.txt_in = nn.Linear(4, WIDTH), nn.Linear(6, WIDTH)
        self.time_in, self.guidance_in, self.vector_in = Embedder(8), Embedder(8), Embedder(5)
        self.double_blocks = nn.ModuleList(DoubleBlock() for _ in range(3))
        self.single_blocks = nn.ModuleList(SingleBlock() for _ in range(4))
        self.final_mod = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 2 * WIDTH))
        self.final = nn.Linear(WIDTH, 4)

    def forward(
        self,
        img: Tensor,
        img_ids: Tensor,
        txt: Tensor,
        txt_ids: Tensor,
        timesteps: Tensor,
        y: Tensor,
        guidance: Tensor | None = None,
    ) -> Tensor:
        if img.ndim != 3 or txt.ndim != 3:
            raise ValueError("img and txt must have three dimensions")
        img = self.img_in(img)
        vec = self.time_in(frequencies(timesteps * 1000, 8))
        if self.guidance_embed:
            if guidance is None:
                raise ValueError("this model wants to know its guidance")
            vec = vec + self.guidance_in(frequencies(guidance, 8))
        vec = vec + self.vector_in(y)
        txt = self.txt_in(txt)
        pe = rotations(torch.cat((txt_ids, img_ids), dim=1), (2, 2, 4))
        for block in self.double_blocks:
            img, txt = block(img=img, txt=txt, vec=vec, pe=pe)
        img = torch.cat((txt, img), 1)
        for block in self.single_blocks:
            img = block(img, vec=vec, pe=pe)
        img = img[:, txt.shape[1] :, ...]
        shift, scale = self.final_mod(vec).chunk(2, dim=1)
        return self.final((1 + scale[:, None]) * img + shift[:, None])


def ids(height: int, width: int) -> Tensor:
    """[1, height * width, 3]"""
    grid = torch.zeros(height, width, 3)
    grid[..., 1] += torch.arange(height)[:, None]
    grid[..., 2] += torch.arange(width)[None]
    return grid.flatten(0, 1)[None]


def call(done: float, height: int = 2, width: int = 3, words: int = 5) -> Call:
    return {
        "img": drift(done, 1, height * width, 4),
        "img_ids": ids(height, width),
        "txt": fixed(1, words, 6),
        "txt_ids": torch.zeros(1, words, 3),
        "timesteps": torch.full((1,), 1.0 - done),
        "y": fixed(1, 5, seed=2),
        "guidance": torch.full((1,), 3.5),
    }


FORM = Form(
    NativeFlux,
    call,
    blocks=7,
    free=("img[1]", "img_ids[1]", "txt[1]", "txt_ids[1]"),
)
