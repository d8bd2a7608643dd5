"""Two nodes for ComfyUI: one caches a model's steps, the other says what was cached.

This folder, linked or copied into ComfyUI's `custom_nodes`, is all of it; fxcache must be installed there.
"""

from __future__ import annotations

from typing import Any

from .sampled_cache import SampledCache

KEY = "fxcache"


class CacheModel:
    """A model whose sampling computes some steps and makes the others of these.

    Inputs: how many times fewer steps are computed; or, in `setting`, the path of a plan's file, or the
    notation. `steps` are those of a sampling, in calls of the model; 0 takes the sampler's.
    """

    CATEGORY = "advanced/model"
    FUNCTION = "apply"
    RETURN_TYPES = ("MODEL",)
    DESCRIPTION = "Computes some steps of a diffusion transformer and makes the others of these."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL",),
                "speedup": ("FLOAT", {"default": 2.0, "min": 1.0, "max": 16.0, "step": 0.1}),
                "steps": ("INT", {"default": 0, "min": 0, "max": 256, "tooltip": "0: the sampler's"}),
            },
            "optional": {
                "setting": ("STRING", {"default": "", "tooltip": "plan.json, or as F8B0_W8M0MC3_T1O1_R0.12"})
            },
        }

    def apply(self, model: Any, speedup: float, steps: int, setting: str = "") -> tuple[Any]:
        from comfy.patcher_extension import WrappersMP

        cache = SampledCache(speedup, steps, setting.strip())
        cache.settings(steps or 2)  # what is wrong with them is said here, and not in the sampler
        patcher = model.clone()
        for kind, wrapper in (
            (WrappersMP.OUTER_SAMPLE, cache.outer_sample),
            (WrappersMP.APPLY_MODEL, cache.apply_model),
        ):
            patcher.remove_wrappers_with_key(kind, KEY)  # of another such node: the last one counts
            patcher.add_wrapper_with_key(kind, KEY, wrapper)
        patcher.set_attachments(KEY, cache)
        return (patcher,)


class CacheReport:
    """What the last sampling of a model cached, as text; the latent only passes, so that it was sampled."""

    CATEGORY = "advanced/model"
    FUNCTION = "report"
    RETURN_TYPES = ("LATENT", "STRING")
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "sampled": ("LATENT",)}}

    def report(self, model: Any, sampled: Any) -> dict[str, Any]:
        cache = model.get_attachment(KEY)
        text = "no fxcache node before this model" if cache is None else cache.report()
        return {"ui": {"text": (text,)}, "result": (sampled, text)}


NODE_CLASS_MAPPINGS = {"FxcacheModel": CacheModel, "FxcacheReport": CacheReport}
NODE_DISPLAY_NAME_MAPPINGS = {"FxcacheModel": "fxcache", "FxcacheReport": "fxcache: what was cached"}
