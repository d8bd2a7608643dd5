"""A model whose blocks lie on two devices, as `device_map` puts them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator

import torch
from accelerate import dispatch_model

import fxcache

from .rows import Cells, Check, NotHere
from .settings import SETTINGS, Setting
from .setup import Setup
from .subjects import Subject, short
from .trajectories import require_alike, run


def devices(setup: Setup) -> Iterator[Check]:
    """On one processor both halves lie on it, with the same hooks around them."""
    subject = short(setup)
    places = places_of(setup.device)
    for setting in SETTINGS[: 1 if setup.quick else 2]:
        run_it = functools.partial(compare, subject, setting, places)
        yield Check(f"{setting.name}, on {' and '.join(places)}", run_it)


def places_of(device: torch.device) -> list[str]:
    """The first two of a kind."""
    count = 2 if device.type == "cpu" else torch.accelerator.device_count()
    return [device.type if device.type == "cpu" else f"{device.type}:{i}" for i in range(min(count, 2))]


def compare(subject: Subject, setting: Setting, places: list[str]) -> Cells:
    """Split against whole, both eager."""
    if len(places) < 2:
        raise NotHere("there is one device of this kind, and two are wanted")
    expected = run(fxcache.transform(subject.model, setting.config()), subject)
    model = copy.deepcopy(subject.model)
    later = ("single_transformer_blocks", "norm_out", "proj_out")
    split = {name: places[name in later] for name, _ in model.named_children()}
    split_model = dispatch_model(model, split, force_hooks=True)
    found = run(fxcache.transform(split_model, setting.config()), subject)
    return {"hits": expected.cached, "error": require_alike(found, expected, subject.dtype)}
