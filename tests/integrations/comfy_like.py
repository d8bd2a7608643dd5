"""The part of ComfyUI that a node meets, by its interface: executors of wrappers, patchers, a guider.

Written from scratch; `test_comfyui.py` runs against ComfyUI itself, too, where that can be imported.
"""

from __future__ import annotations

import copy
import itertools
import types
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

WIDTH = 16


class WrappersMP:
    OUTER_SAMPLE = "outer_sample"
    APPLY_MODEL = "apply_model"


def as_package() -> dict[str, types.ModuleType]:
    """What an `import comfy.patcher_extension` finds, for `sys.modules`."""
    package = types.ModuleType("comfy")
    extension = types.ModuleType("comfy.patcher_extension")
    extension.WrappersMP = WrappersMP  # type: ignore[attr-defined]
    package.patcher_extension = extension  # type: ignore[attr-defined]
    return {"comfy": package, "comfy.patcher_extension": extension}


class Executor:
    """A function within the wrappers around it."""

    def __init__(self, function: Callable[..., Any], owner: object, wrappers: Sequence[Callable[..., Any]]):
        self.function, self.class_obj, self.wrappers = function, owner, wrappers

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        if not self.wrappers:
            return self.function(*args, **kwargs)
        return self.wrappers[0](self, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return Executor(self.function, self.class_obj, self.wrappers[1:]).execute(*args, **kwargs)


def wrappers_of(options: dict[str, Any], kind: str) -> list[Callable[..., Any]]:
    return [w for group in options.get("wrappers", {}).get(kind, {}).values() for w in group]


class Block(nn.Module):
    """Writes to its input, and reads a patch for its place."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, vec: Tensor, transformer_options: dict[str, Any]) -> Tensor:
        update = torch.tanh(self.mix(x) + vec)
        for patch in transformer_options.get("patches", {}).get("update", ()):
            update = patch(update, transformer_options)
        x += update
        return x


class Denoiser(nn.Module):
    """A small transformer as ComfyUI calls one."""

    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(Block(i) for i in range(blocks))
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(
        self, x: Tensor, t: Tensor, context: Tensor, control: Any = None, transformer_options: Any = None
    ) -> Tensor:
        executor = Executor(self._forward, self, wrappers_of(transformer_options, "diffusion_model"))
        return executor.execute(x, t, context, control, transformer_options)

    def _forward(self, x: Tensor, t: Tensor, context: Tensor, control: Any, options: Any) -> Tensor:
        hidden = self.embed(x) + context.mean(1, keepdim=True)
        vec = torch.sin(t).reshape(-1, 1, 1)
        for i, block in enumerate(self.blocks):
            hidden = block(hidden, vec, options)
            if control is not None and i < len(control["output"]):
                hidden[:, :2] += control["output"][i]
        return self.head(hidden)


class BaseModel(nn.Module):
    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.diffusion_model = denoiser

    def apply_model(
        self, x: Tensor, t: Tensor, c_concat: Any, c_crossattn: Tensor, control: Any, options: dict[str, Any]
    ) -> Tensor:
        executor = Executor(self._apply_model, self, wrappers_of(options, "apply_model"))
        return executor.execute(x, t, c_concat, c_crossattn, control, options)

    def _apply_model(
        self, x: Tensor, t: Tensor, c_concat: Any, c_crossattn: Tensor, control: Any, options: dict[str, Any]
    ) -> Tensor:
        return self.diffusion_model(x, t, context=c_crossattn, control=control, transformer_options=options)


class Patcher:
    """A model, and what is wrapped around it in one workflow."""

    def __init__(self, model: BaseModel) -> None:
        self.model = model
        self.wrappers: dict[str, dict[str, list[Callable[..., Any]]]] = {}
        self.attachments: dict[str, Any] = {}
        self.patches: dict[str, list[Callable[..., Any]]] = {}

    def clone(self) -> Patcher:
        clone = Patcher(self.model)
        clone.wrappers = {k: {n: list(w) for n, w in group.items()} for k, group in self.wrappers.items()}
        clone.attachments, clone.patches = dict(self.attachments), copy.deepcopy(self.patches)
        return clone

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Callable[..., Any]) -> None:
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def remove_wrappers_with_key(self, kind: str, key: str) -> None:
        self.wrappers.get(kind, {}).pop(key, None)

    def set_attachments(self, key: str, attachment: object) -> None:
        self.attachments[key] = attachment

    def get_attachment(self, key: str) -> Any:
        return self.attachments.get(key)


class Guider:
    """Classifier-free guidance and Euler's sampler. joined: both conditions in one call."""

    def __init__(
        self, patcher: Patcher, joined: bool, control: Any = None, stop_at: int | None = None
    ) -> None:
        self.model_patcher, self.joined, self.control, self.stop_at = patcher, joined, control, stop_at

    def sample(self, noise: Tensor, sigmas: Tensor, conditions: Sequence[Tensor]) -> Tensor:
        self.conditions = [(i, c, uuid.uuid4()) for i, c in enumerate(conditions)]
        wrappers = wrappers_of({"wrappers": self.model_patcher.wrappers}, "outer_sample")
        executor = Executor(self.outer_sample, self, wrappers)
        return executor.execute(noise, torch.zeros_like(noise), None, sigmas, None, None, True, 0)

    def outer_sample(self, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *rest: Any) -> Tensor:
        x = noise
        for i, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
            if i == self.stop_at:
                raise KeyboardInterrupt
            outputs = self.outputs(x, sigma, sigmas)
            x = x + (following - sigma) * (outputs[1] + 2 * (outputs[0] - outputs[1]))
        return x

    def outputs(self, x: Tensor, sigma: Tensor, sigmas: Tensor) -> list[Tensor]:
        if not self.joined:
            return [self.call(x, sigma, sigmas, [condition]) for condition in self.conditions]
        return list(self.call(x, sigma, sigmas, self.conditions[::-1]).chunk(2))[::-1]

    def call(self, x: Tensor, sigma: Tensor, sigmas: Tensor, conditions: Sequence[Any]) -> Tensor:
        kinds, contexts, ids = zip(*conditions, strict=True)
        time = sigma.repeat(len(kinds) * len(x))
        options = {
            "wrappers": {k: dict(v) for k, v in self.model_patcher.wrappers.items()},
            "patches": dict(self.model_patcher.patches),
            "cond_or_uncond": list(kinds),
            "uuids": list(ids),
            "sigmas": time,
            "sample_sigmas": sigmas,
        }
        given = torch.cat([x] * len(kinds)), time, None, torch.cat(contexts), self.control
        return self.model_patcher.model.apply_model(*given, options)
