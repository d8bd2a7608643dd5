"""As ComfyUI writes it: one dict of options goes everywhere; patches, control, blocks that write in place.

The options have tensors, functions, lists and names in them. The forward writes to that dict as it goes
(which block it is at) and hands it to every block; a patch may take a block's place, and calls it back in a
wrapper made on the spot; a ControlNet's residuals come as lists with gaps.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .form import Call, Form, drift, fixed, frequencies

WIDTH = 16
Options = dict[str, Any]


class DoubleBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.img, self.txt, self.vec = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(
        self, img: Tensor, txt: Tensor, vec: Tensor, attn_mask: Tensor | None, transformer_options: Options
    ) -> tuple[Tensor, Tensor]:
        if transformer_options.get("block_type") != "double":
            raise ValueError("the options say where the forward is")
        gate = self.vec(vec)[:, None]
        mixed = torch.cat((self.txt(txt), self.img(img)), dim=1).softmax(1)
        for patch in transformer_options.get("patches", {}).get("attn1_output_patch", []):
            mixed = patch(mixed, transformer_options)
        txt_part, img_part = mixed.split([txt.shape[1], img.shape[1]], dim=1)
        img += gate * img_part
        txt.addcmul_(gate, txt_part)
        return img, txt


class SingleBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.vec = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(
        self, x: Tensor, vec: Tensor, attn_mask: Tensor | None, transformer_options: Options
    ) -> Tensor:
        x += self.vec(vec)[:, None] * self.mix(x).tanh()
        return x


class Comfy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.img_in, self.txt_in, self.time_in = (
            nn.Linear(16, WIDTH),
            nn.Linear(6, WIDTH),
            nn.Linear(8, WIDTH),
        )
        self.double_blocks = nn.ModuleList(DoubleBlock() for _ in range(3))
        self.single_blocks = nn.ModuleList(SingleBlock() for _ in range(3))
        self.final_layer = nn.Linear(WIDTH, 16)

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        control: dict[str, list[Tensor | None]] | None = None,
        transformer_options: Options = {},  # noqa: B006
        **kwargs: Any,
    ) -> Tensor:
        batch, channels, height, width = x.shape
        img = x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        out = self.forward_orig(
            img, context, timestep, control, transformer_options, attn_mask=kwargs.get("attention_mask")
        )
        out = out.view(batch, height // 2, width // 2, channels, 2, 2)
        return out.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)

    def forward_orig(
        self,
        img: Tensor,
        txt: Tensor,
        timesteps: Tensor,
        control: dict[str, list[Tensor | None]] | None,
        transformer_options: Options,
        attn_mask: Tensor | None,
    ) -> Tensor:
        patches = transformer_options.get("patches", {})
        blocks_replace = transformer_options.get("patches_replace", {}).get("dit", {})
        img, txt = self.img_in(img), self.txt_in(txt)
        vec = self.time_in(frequencies(timesteps, 8))
        for patch in patches.get("post_input", []):
            img = patch({"img": img, "txt": txt, "transformer_options": transformer_options})["img"]
        transformer_options["total_blocks"] = len(self.double_blocks)
        transformer_options["block_type"] = "double"
        for i, block in enumerate(self.double_blocks):
            transformer_options["block_index"] = i
            if ("double_block", i) in blocks_replace:

                def block_wrap(args: dict[str, Any]) -> dict[str, Any]:
                    out = {}
                    out["img"], out["txt"] = block(  # noqa: B023
                        img=args["img"],
                        txt=args["txt"],
                        vec=args["vec"],
                        attn_mask=args.get("attn_mask"),
                        transformer_options=args.get("transformer_options"),
                    )
                    return out

                args = {"img": img, "txt": txt, "vec": vec, "transformer_options": transformer_options}
                out = blocks_replace[("double_block", i)](args, {"original_block": block_wrap})
                img, txt = out["img"], out["txt"]
            else:
                img, txt = block(
                    img=img, txt=txt, vec=vec, attn_mask=attn_mask, transformer_options=transformer_options
                )
            if control is not None:
                residuals = control.get("input", [])
                if i < len(residuals):
                    add = residuals[i]
                    if add is not None:
                        img[:, : add.shape[1]] += add
        img = torch.cat((txt, img), 1)
        transformer_options["total_blocks"] = len(self.single_blocks)
        transformer_options["block_type"] = "single"
        for i, block in enumerate(self.single_blocks):
            transformer_options["block_index"] = i
            img = block(img, vec=vec, attn_mask=attn_mask, transformer_options=transformer_options)
        return self.final_layer(img[:, txt.shape[1] :, ...])


class Scaled:
    """A patch that an extension hung on the model, with a setting of its own."""

    def __init__(self, by: float) -> None:
        self.by = by

    def output(self, mixed: Tensor, options: Options) -> Tensor:
        return mixed * (1 + self.by * len(options["cond_or_uncond"]))

    def replace(self, args: dict[str, Any], extra: dict[str, Callable[..., Any]]) -> dict[str, Any]:
        out = extra["original_block"](args)
        return {**out, "txt": out["txt"] * (1 - self.by)}

    def post_input(self, args: dict[str, Any]) -> dict[str, Any]:
        return {**args, "img": args["img"] + self.by}


SCALED = Scaled(0.1)
SIGMAS = torch.linspace(1, 0, 8)


def options(done: float, patched: bool = True) -> Options:
    """As a sampler makes them, anew for every call."""
    patches = {"attn1_output_patch": [SCALED.output], "post_input": [SCALED.post_input]}
    return {
        "cond_or_uncond": [1, 0],
        "uuids": [uuid.uuid4(), uuid.uuid4()],
        "sigmas": torch.full((1,), 1.0 - done),
        "sample_sigmas": SIGMAS,
        "patches": patches if patched else {},
        "patches_replace": {"dit": {("double_block", 1): SCALED.replace} if patched else {}},
        "wrappers": {"diffusion_model": {None: []}},
        "callbacks": {},
    }


def call(done: float, patched: bool = True) -> Call:
    return {
        "x": drift(done, 2, 4, 4, 6),
        "timestep": torch.full((2,), 1.0 - done),
        "context": fixed(2, 5, 6),
        "control": {"input": [fixed(2, 6, WIDTH, seed=3), None], "output": []},
        "transformer_options": options(done, patched),
    }


FORM = Form(
    Comfy,
    call,
    blocks=6,
    free=("x[0]", "x[2]", "x[3]", "context[1]"),
    options={"ignore": ("transformer_options.uuids",)},
)
