"""A zoo case: one tiny random-weight transformer with inputs it runs on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import diffusers
import pytest
from diffusers.models import transformers
from torch import nn

from .draw import Draw
from .fresh import fresh_values
from .weights import randomise_degenerate_parameters, reproducible_init

BLOCKS = 4
"""Blocks per main list: enough for a front, a middle of two and a back."""

ZOO_OF = "0.42"
"""The diffusers that has all classes: with another, the tests of those that are not there are skipped."""

INPUT_SEED = 0
WEIGHT_SEED = 1
RESIZE_SEED = 2

Inputs = dict[str, Any]
Config = dict[str, Any]
Resize = Callable[[Inputs], Inputs]


class Blueprint(NamedTuple):
    """What a case is made of: ``model_class(**config)`` called with ``**inputs``."""

    model_class: Callable[..., nn.Module]
    config: Config
    inputs: Inputs


@dataclass(frozen=True)
class ZooCase:
    """One class (or, as ``Class:variant``, one structural variant of it).

    ``latent_names`` are the inputs that hold the sample being denoised, ``timestep_names`` those
    that hold the time (integer times stay below ``timestep_limit``). ``resize`` maps the inputs
    to valid ones of another batch and resolution.
    """

    name: str
    build_config: Callable[[Draw], Blueprint]
    latent_names: tuple[str, ...] = ("hidden_states",)
    timestep_names: tuple[str, ...] = ("timestep",)
    timestep_limit: int = 1000
    resize: Resize | None = None

    @property
    def class_name(self) -> str:
        return self.name.partition(":")[0]

    def _blueprint(self) -> Blueprint:
        try:
            return self.build_config(Draw(INPUT_SEED))
        except AttributeError as error:
            if error.obj is not transformers or diffusers.__version__.startswith(ZOO_OF):
                raise
            pytest.skip(f"diffusers {diffusers.__version__} has no {error.name}")

    def build(self) -> tuple[nn.Module, Inputs]:
        """A new model in eval mode and its inputs, bit-equal on every call."""
        blueprint = self._blueprint()
        with reproducible_init(WEIGHT_SEED):
            model = blueprint.model_class(**blueprint.config)
        randomise_degenerate_parameters(model, WEIGHT_SEED)
        return model.eval().requires_grad_(False), blueprint.inputs

    def fresh_inputs(self, seed: int) -> Inputs:
        """The inputs of ``build`` with other latents and another timestep."""
        inputs = self._blueprint().inputs
        return fresh_values(inputs, self.latent_names, self.timestep_names, self.timestep_limit, seed)


def with_sizes(make_inputs: Callable[..., Inputs], **sizes: Any) -> Resize:
    """A ``resize`` that makes the inputs anew with other sizes."""
    return lambda _inputs: make_inputs(Draw(RESIZE_SEED), **sizes)
