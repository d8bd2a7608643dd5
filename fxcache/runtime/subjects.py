"""What may be transformed, compiled or exported; everything else is refused with what to do."""

from __future__ import annotations

import inspect

import torch
from torch import nn

from ..capture.rank_groups import rank_groups
from ..capture.whole_parameters import fully_sharded
from ..errors import BackendError, NotAModelError, PackageUseError
from ..torch_private import OptimizedModule
from .cached_transformer import CachedTransformer
from .sealed import Sealed


def require_model(value: object) -> nn.Module:
    """`value`, if it is a module that can be captured. Raises `NotAModelError`, `PackageUseError`."""
    _refuse_package(value, "be transformed", "The cache that it was exported with is inside.")
    given, advice = _refusal(value)
    if given is not None:
        raise NotAModelError(given, advice)
    assert isinstance(value, nn.Module)
    return value


def require_cached(value: object, verb: str) -> CachedTransformer:
    """`value`, if it is a cached model. Raises `BackendError`, `PackageUseError`.

    verb: what would be done, "compile" or "export".
    """
    instead = f"Give what fxcache.transform() returned to fxcache.{verb}()."
    _refuse_package(value, f"be the subject of fxcache.{verb}()", instead)
    if not isinstance(value, CachedTransformer):
        raise BackendError(f"what is given to fxcache.{verb}()", "be what fxcache.transform() returns")
    return value


def shared_with(cached: CachedTransformer) -> str | None:
    """Which processes have a part in a model's forward, in words; None where it is this one's alone."""
    groups = (*cached.processes, *rank_groups(cached.original))
    if groups:
        return groups[0].describe()
    return "FSDP gathers its parameters" if fully_sharded(cached.original) else None


def _refuse_package(value: object, use: str, instead: str) -> None:
    if isinstance(value, Sealed):
        raise PackageUseError(value.sealed, f"cannot {use}", instead)


def compiled_before(value: object) -> bool:
    """Whether `value` is what `torch.compile(module)` returns, or a module on which `compile()` ran."""
    if isinstance(value, OptimizedModule):
        return True
    return isinstance(value, nn.Module) and value.__dict__.get("_compiled_call_impl") is not None


def _refusal(value: object) -> tuple[str | None, str]:
    if inspect.isclass(value):
        return (
            f"the class {value.__name__}",
            f"make an object first, e.g. {value.__name__}.from_pretrained(...)",
        )
    if isinstance(value, (str, bytes)) or hasattr(value, "__fspath__"):
        return f"the path {value!r}", "load the model first, e.g. with from_pretrained(...)"
    if value is None:
        return "None", "the pipeline may hold its denoiser under another name (transformer, unet, ...)"
    if isinstance(value, OptimizedModule):
        return "what torch.compile() returned", (
            "transform the model itself (its _orig_mod), then fxcache.compile() the result"
        )
    if isinstance(value, torch.jit.ScriptModule):
        return "a ScriptModule", "it has no Python code to capture; transform the model that was scripted"
    if isinstance(value, nn.Module):
        if compiled_before(value):
            return "a model that is compiled already (compile())", (
                "transform it first, then fxcache.compile() the result; "
                "model._compiled_call_impl = None undoes it"
            )
        return None, ""
    if callable(value):
        name = getattr(value, "__name__", type(value).__name__)
        return f"the function {name}", "hand over the module that it calls"
    return f"an object of type {type(value).__name__}", "hand over the module itself, e.g. pipe.transformer"
