"""Emoji as tensors: the colored bitmaps of Debian's fonts-noto-color-emoji, by Unicode group."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .conditioning import CLASS_NAMES
from .latents import IMAGE_SIZE

DEFAULT_FONT: Final = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
"""Where Debian's fonts-noto-color-emoji puts it."""
DEFAULT_LIST: Final = Path("/usr/share/unicode/emoji/emoji-test.txt")
"""Where Debian's unicode-data puts it."""

_FONT_SIZE: Final = 109  # the one size of which the font has bitmaps
_CANVAS: Final = 136  # a bitmap is 136 wide and 128 high


@dataclass(frozen=True)
class Emoji:
    """Pictures uint8 [N,3,32,32] on white and their classes int64 [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def load_emoji(font: Path = DEFAULT_FONT, listing: Path = DEFAULT_LIST) -> Emoji:
    """Draw every emoji of the Unicode list for which the font has a picture of its own.

    Raises:
        FileNotFoundError: the font or the list is missing.
    """
    for path in (font, listing):
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: apt-get install fonts-noto-color-emoji unicode-data")
    # Only this layout engine joins the code points of a sequence to one glyph.
    face = ImageFont.truetype(str(font), _FONT_SIZE, layout_engine=ImageFont.Layout.RAQM)
    shown = [(text, label) for text, label in _listed(listing) if face.getlength(text) <= _CANVAS]
    images = np.stack([_draw(text, face) for text, _ in shown])
    return Emoji(
        images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        labels=torch.tensor([label for _, label in shown]),
    )


def batches(emoji: Emoji, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (images uint8 [size,3,32,32], labels [size]); a class is drawn by the root of its share.

    More than half of the emoji are people in five skin tones; by the root, small classes are seen
    often enough to be learned and large ones are not starved.
    """
    counts = torch.bincount(emoji.labels, minlength=len(CLASS_NAMES)).double()
    weights = counts.rsqrt()[emoji.labels]
    while True:
        chosen = torch.multinomial(weights, size, generator=generator)
        yield emoji.images[chosen], emoji.labels[chosen]


def _listed(path: Path) -> Iterator[tuple[str, int]]:
    """Each fully qualified emoji of emoji-test.txt with its class."""
    group = subgroup = ""
    for line in path.read_text().splitlines():
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ")
        elif line.startswith("# subgroup: "):
            subgroup = line.removeprefix("# subgroup: ")
        elif "; fully-qualified" in line:
            text = "".join(chr(int(code, 16)) for code in line.split(";")[0].split())
            yield text, CLASS_NAMES.index(_class_name(group, subgroup))


def _class_name(group: str, subgroup: str) -> str:
    """The Unicode group, but hands and other parts of the body apart from people."""
    if group != "People & Body":
        return group
    return "Body" if subgroup.startswith(("hand", "body")) else "People"


def _draw(text: str, face: ImageFont.FreeTypeFont) -> np.ndarray:
    """One emoji [32,32,3] uint8, centered on white."""
    canvas = Image.new("RGB", (_CANVAS, _CANVAS), "white")
    ImageDraw.Draw(canvas).text(
        (_CANVAS // 2, _CANVAS // 2), text, font=face, embedded_color=True, anchor="mm"
    )
    return np.asarray(canvas.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX))
