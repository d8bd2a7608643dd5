"""Models as they are named on a command line, without their weights, each with a call of it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from .. import embedded
from ..benchmark.errors import PipelineError
from ..benchmark.pipeline_subject import load_folder
from ..benchmark.subject import EMBEDDED
from ..capture.forward_inputs import usual_timestep
from ..torch_private import pytree
from .caught import Call, caught_calls
from .conventional import conventional_call
from .errors import NoCallError, UnknownModelError
from .sizes import Sizes

INDEX, CONFIG = "model_index.json", "config.json"
PROMPT = "a photo of a cat"


@dataclass(frozen=True)
class Prepared:
    """A model on the meta device and a call of it, its tensors there, too.

    name: the pipeline's component, or the class. how: where the call is from, in words.
    """

    name: str
    model: nn.Module
    call: Call
    how: str


def prepared(named: str, sizes: Sizes, given: Mapping[str, Any], dtype: torch.dtype) -> list[Prepared]:
    """Every denoiser of what is named: one, or those of a pipeline.

    Args:
        named: "embedded", a folder of a pipeline or of a transformer, a config.json, or a class of diffusers.
        given: of a transformer, the arguments of its call; none for those that `conventional_call` finds.

    Raises:
        UnknownModelError: there is no such model. NoCallError, NoSuchSizeError: no call of it was found.

    Example:
        >>> import torch
        >>> from fxcache.preparation.named import prepared
        >>> from fxcache.preparation.sizes import Sizes
        >>> (found,) = prepared("embedded", Sizes(batch=2), {}, torch.float32)
        >>> found.model.device.type, found.call["hidden_states"].shape
        ('meta', torch.Size([2, 49, 16]))
    """
    path = Path(named)
    if (path / INDEX).is_file() and not given:
        found = list(_of_pipeline(path, sizes, dtype))
    elif (path / INDEX).is_file():
        names = [name for name, _ in _parts(path)]
        found = [
            Prepared(name, without_weights(path / name, dtype), dict(given), "as given") for name in names
        ]
    else:
        model = without_weights(path if named != EMBEDDED else EMBEDDED_FOLDER, dtype)
        name = type(model).__name__
        if given:
            found = [Prepared(name, model, dict(given), "as given")]
        elif named == EMBEDDED:
            sizes.arguments("The embedded model", {"num_images_per_prompt": ...})
            example = embedded.example_inputs(batch=sizes.batch or 1)
            found = [Prepared(name, model, example, "as its pipeline makes it")]
        else:
            call = conventional_call(model, sizes)
            found = [Prepared(name, model, call, "made up from the names of its inputs and settings")]
    return [_on_meta(one, dtype) for one in found]


EMBEDDED_FOLDER = Path(embedded.__file__).parent / "transformer"


def without_weights(path: Path, dtype: torch.dtype) -> nn.Module:
    """The transformer of a folder, a config.json or a class's name, on the meta device.

    Raises:
        UnknownModelError: there is none.

    Example:
        >>> import torch
        >>> from pathlib import Path
        >>> from fxcache.preparation.named import without_weights
        >>> model = without_weights(Path("FluxTransformer2DModel"), torch.bfloat16)
        >>> model.device, sum(p.numel() for p in model.parameters())
        (device(type='meta'), 11891178560)
    """
    file = path if path.is_file() else path / CONFIG
    if file.is_file():
        try:
            settings = json.loads(file.read_text())
            kind = _class(settings["_class_name"])
        except (ValueError, KeyError, TypeError) as error:
            raise UnknownModelError(
                str(file), "it is no config.json of a transformer of diffusers"
            ) from error
        if kind is None:
            raise UnknownModelError(str(file), f"diffusers has no {settings['_class_name']}")
    else:
        settings, kind = {}, _class(str(path))
        if kind is None:
            why = f"there is no {CONFIG} in it" if path.is_dir() else "there is no such folder, file or class"
            raise UnknownModelError(str(path), why)
    with torch.device("meta"):
        model: nn.Module = kind.from_config(settings) if settings else kind()
    return nn.Module.to(model, dtype).eval().requires_grad_(False)  # diffusers' own warns of its weights


def with_random_weights(one: Prepared) -> Prepared:
    """The same on the CPU, for what must compute with weights, whatever they are; the call full of zeros.

    Example:
        >>> import torch
        >>> from fxcache.preparation.named import prepared, with_random_weights
        >>> from fxcache.preparation.sizes import Sizes
        >>> (found,) = prepared("embedded", Sizes(), {}, torch.bfloat16)
        >>> with_random_weights(found).model.dtype, with_random_weights(found).model.device.type
        (torch.bfloat16, 'cpu')
    """
    kind: Any = type(one.model)
    model = nn.Module.to(kind.from_config(one.model.config), next(one.model.parameters()).dtype)
    call = pytree.tree_map_only(torch.Tensor, lambda t: torch.zeros_like(t, device="cpu"), one.call)
    return Prepared(one.name, model.eval().requires_grad_(False), call, one.how)


def _of_pipeline(path: Path, sizes: Sizes, dtype: torch.dtype) -> Iterator[Prepared]:
    """Its own preparation, or where that needs what is not there, what its denoisers' names say."""
    parts = {name: without_weights(path / name, dtype) for name, _ in _parts(path)}
    if not parts:
        raise UnknownModelError(str(path), "the pipeline has no transformer")
    try:
        pipe = load_folder(path, None, **parts)
        accepted = inspect.signature(type(pipe).__call__).parameters
        arguments = sizes.arguments(type(pipe).__name__, accepted)
        if "prompt" in accepted:
            arguments["prompt"] = PROMPT
        calls = caught_calls(pipe, arguments)
        how = f"as {type(pipe).__name__} makes it"
    except (NoCallError, PipelineError) as error:
        why = " ".join(str(error).split())[:200]
        calls = {name: conventional_call(model, sizes) for name, model in parts.items()}
        how = f"made up from the names of its inputs and settings, as the pipeline could not be run: {why}"
    for name, call in calls.items():
        yield Prepared(name, parts[name], call, how)


def _parts(path: Path) -> Iterator[tuple[str, type]]:
    """The components of a pipeline's folder whose forward takes a timestep, but ControlNets."""
    for name, entry in json.loads((path / INDEX).read_text()).items():
        kind = _class(entry[1]) if isinstance(entry, list) and entry[0] == "diffusers" else None
        if kind is not None and "controlnet" not in name and (path / name / CONFIG).is_file():
            yield name, kind


def _class(name: Any) -> Any:
    """The class of diffusers of that name that is called with a timestep; None where there is none."""
    kind = getattr(diffusers, name, None) if isinstance(name, str) and name.isidentifier() else None
    if not (inspect.isclass(kind) and issubclass(kind, nn.Module) and usual_timestep(kind.forward)):
        return None
    return kind


def _on_meta(one: Prepared, dtype: torch.dtype) -> Prepared:
    def moved(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to("meta", dtype if tensor.is_floating_point() else None)

    call = pytree.tree_map_only(torch.Tensor, moved, one.call)
    return Prepared(one.name, one.model, call, one.how)
