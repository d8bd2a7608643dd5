"""CLIP score with transformers' own CLIPModel, from a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..errors import MissingPathError

BATCH = 16


class ClipScorer:
    """Scores pictures against their prompts.

    Raises `MissingPathError` where the folder holds no CLIP model that transformers can load.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import CLIPModel, CLIPProcessor

        if not (folder / "config.json").is_file():
            raise MissingPathError(
                "--clip-model", folder, "no config.json there; name a folder of a CLIP model"
            )
        try:
            self._model = CLIPModel.from_pretrained(folder, local_files_only=True).to(device).eval()
            self._processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise MissingPathError("--clip-model", folder, " ".join(str(error).split())) from error
        self._device = device
        self._length = int(self._model.config.text_config.max_position_embeddings)

    @torch.no_grad()
    def embed(self, paths: Sequence[Path], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Unit embeddings of pictures and of prompts, [B,D] each, on the CPU."""
        pairs = [self._embed(paths[i : i + BATCH], texts[i : i + BATCH]) for i in range(0, len(paths), BATCH)]
        images, prompts = zip(*pairs, strict=True)
        return torch.cat(images), torch.cat(prompts)

    def _embed(self, paths: Sequence[Path], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        images = [Image.open(path).convert("RGB") for path in paths]
        inputs = self._processor(
            text=list(texts),
            images=images,
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self._length,
        ).to(self._device)
        output = self._model(**inputs)
        return output.image_embeds.float().cpu(), output.text_embeds.float().cpu()


def clip_score(images: Tensor, prompts: Tensor) -> Tensor:
    """100 × cosine of each pair of unit embeddings, not below 0: [B]."""
    return (100 * (images * prompts).sum(-1)).clamp(min=0)
