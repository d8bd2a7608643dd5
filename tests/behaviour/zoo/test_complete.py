"""Every transformer class of the installed diffusers has a zoo case, and every case runs."""

import importlib
import inspect
import pkgutil
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models import transformers
from torch import Tensor, nn

from tests.behaviour.zoo import ALL_CASES, ZooCase, find
from tests.behaviour.zoo.nested import same_structure, tensors_in

OUTSIDE_THE_NAMESPACE = {"TransformerSpatioTemporalModel", "UVit2DModel"}

FAST = (
    "FluxTransformer2DModel",
    "ChromaTransformer2DModel",
    "SD3Transformer2DModel",
    "QwenImageTransformer2DModel",
    "CogVideoXTransformer3DModel",
    "HunyuanVideoTransformer3DModel",
    "WanTransformer3DModel",
    "PixArtTransformer2DModel",
    "Lumina2Transformer2DModel",
    "StableAudioDiTModel",
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
    pytest.mark.filterwarnings("ignore:In CPU autocast"),
]


def _over(cases: tuple[ZooCase, ...]) -> pytest.MarkDecorator:
    """Parametrise over ``cases``; all but the FAST ones only in a full run."""
    parameters = [
        pytest.param(case, id=case.name, marks=() if case.name in FAST else pytest.mark.full)
        for case in cases
    ]
    return pytest.mark.parametrize("case", parameters)


def _run(model: nn.Module, inputs: dict[str, Any]) -> list[Tensor]:
    tensors = tensors_in(model(**inputs))
    assert tensors, "the forward returned no tensor"
    assert all(tensor.isfinite().all() for tensor in tensors)
    return tensors


def _bit_equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(map(torch.equal, left, right))


def _public_transformers() -> set[str]:
    """The modules defined in the transformers package and named in its or the top namespace."""
    public = {*dir(diffusers), *dir(transformers)}
    found = set()
    for info in pkgutil.iter_modules(transformers.__path__):
        module = importlib.import_module(f"{transformers.__name__}.{info.name}")
        for name, member in inspect.getmembers(module, inspect.isclass):
            if member.__module__ == module.__name__ and issubclass(member, nn.Module):
                found.add(name)
    return found & public


def test_every_transformer_of_diffusers_is_in_the_zoo() -> None:
    missing = (_public_transformers() | OUTSIDE_THE_NAMESPACE) - {c.class_name for c in ALL_CASES}
    assert not missing, f"no zoo case for {', '.join(sorted(missing))}"


def test_names_are_unique_and_name_the_class_that_is_built() -> None:
    assert len({case.name for case in ALL_CASES}) == len(ALL_CASES)
    model, _ = find("WanTransformer3DModel:i2v").build()
    assert type(model).__name__ == "WanTransformer3DModel"


def test_find_names_the_case_it_does_not_know() -> None:
    with pytest.raises(KeyError, match="NoSuchModel"):
        find("NoSuchModel")


@_over(ALL_CASES)
def test_case_runs_and_two_builds_are_bit_equal(case: ZooCase) -> None:
    generator_state = torch.get_rng_state()
    model, inputs = case.build()
    again, same_inputs = case.build()
    assert torch.equal(generator_state, torch.get_rng_state())
    assert type(model).__name__ == case.class_name
    assert _bit_equal(tensors_in(model.state_dict()), tensors_in(again.state_dict()))
    assert _bit_equal(tensors_in(inputs), tensors_in(same_inputs))
    assert _bit_equal(_run(model, inputs), _run(again, same_inputs))


@_over(ALL_CASES)
def test_fresh_inputs_have_the_structure_of_the_old_ones(case: ZooCase) -> None:
    model, inputs = case.build()
    fresh = case.fresh_inputs(seed=1)
    assert same_structure(inputs, fresh)
    for name in case.latent_names + case.timestep_names:
        assert not _bit_equal(tensors_in(inputs[name]), tensors_in(fresh[name])), name
    assert not _bit_equal(_run(model, inputs), _run(model, fresh))


@_over(tuple(case for case in ALL_CASES if case.resize))
def test_resized_inputs_run(case: ZooCase) -> None:
    assert case.resize is not None
    model, inputs = case.build()
    resized = case.resize(inputs)
    assert resized.keys() == inputs.keys()
    shapes = [tensor.shape for tensor in _run(model, inputs)]
    assert [tensor.shape for tensor in _run(model, resized)] != shapes
