"""Packages in the pipelines that users run, exported from the very calls that these make."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

import fxcache
from tests.behaviour.pipelines.build import CASES, PipelineCase

CONFIG = "F1B0_W2M0MC2_T1O1_R1000"
# Qwen-Image turns the length of a prompt into a Python number: a package is for prompts of one length.
CHANGES: dict[str, dict[str, Any]] = {"QwenImagePipeline": {"true_cfg_scale": 1.0}}


def first_calls(case: PipelineCase, pipe: DiffusionPipeline) -> dict[str, dict[str, Any]]:
    """The arguments with which a run calls each denoiser first."""
    found: dict[str, dict[str, Any]] = {}

    def note(name: str) -> Any:
        def hook(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            bound = inspect.signature(type(model).forward).bind(model, *args, **kwargs).arguments
            found.setdefault(name, {k: v for k, v in bound.items() if k != "self"})

        return hook

    hooks = [
        getattr(pipe, name).register_forward_pre_hook(note(name), with_kwargs=True) for name in case.denoisers
    ]
    case.run(pipe)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.full
@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
def test_a_package_takes_the_denoisers_place(case: PipelineCase, tmp_path: Path) -> None:
    pipe = case.load()
    changes = CHANGES.get(case.name, {})
    calls = first_calls(case, pipe)
    fxcache.transform(pipe, CONFIG)
    cached = {name: getattr(pipe, name) for name in case.denoisers}
    expected = case.run(pipe, **changes)
    for name, model in cached.items():
        path = fxcache.export(model, tmp_path / f"{name}.pt2", calls[name])
        setattr(pipe, name, fxcache.load(path))
    torch.testing.assert_close(case.run(pipe, **changes), expected, rtol=1e-3, atol=1e-3)
    for name, model in cached.items():
        packaged = getattr(pipe, name).stats()
        assert {n: c.hits for n, c in packaged.contexts.items()} == {
            n: c.hits for n, c in model.stats().contexts.items()
        }
        assert packaged.cached > 0
