"""Models that diffusers loads with a `quantization_config`, and the layers that such loading makes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import nn

import fxcache
from fxcache import embedded
from fxcache.embedded import example_inputs, load_transformer

FOLDER = Path(embedded.__file__).parent / "transformer"
GIVEN = example_inputs(batch=1)
FLOATS = ("hidden_states", "encoder_hidden_states", "pooled_projections")


@pytest.fixture(autouse=True)
def their_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def inputs(timestep: float, dtype: torch.dtype) -> dict[str, Any]:
    given = {**GIVEN, "timestep": torch.tensor([timestep])}
    return {name: v.to(dtype) if name in FLOATS else v for name, v in given.items()}


def check(model: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """The cached model is the quantized one, bit for bit, and hits; the quantized one is not the plain."""
    with torch.no_grad():
        expected = model(**inputs(0.9, dtype))[0]
        plain = load_transformer(dtype)(**inputs(0.9, dtype))[0]
        assert 0 < (expected - plain).norm() < 0.1 * plain.norm()
        cached = fxcache.transform(model, "F1B0_W1M0MC1_T0O1_R9")
        assert torch.equal(cached(**inputs(0.9, dtype))[0], expected)
        cached(**inputs(0.8, dtype))
    assert cached.stats()["default"].cached_steps == (1,)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("Int8WeightOnlyConfig", torch.float32),
        ("Int8DynamicActivationInt8WeightConfig", torch.float32),
        ("Float8WeightOnlyConfig", torch.bfloat16),
    ],
)
def test_torchao(kind: str, dtype: torch.dtype) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    from diffusers import TorchAoConfig

    config = TorchAoConfig(getattr(quantization, kind)())
    model = FluxTransformer2DModel.from_pretrained(FOLDER, quantization_config=config, torch_dtype=dtype)
    check(model, dtype)


def replaced(make: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    """The embedded model, with the linear layers of its blocks made anew."""
    model = load_transformer()
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and "transformer_blocks" in name:
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, make(layer))
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("bits", [8, 4])
def test_layers_of_bitsandbytes(bits: int) -> None:
    """Of the layers: diffusers' `BitsAndBytesConfig` asks for a GPU."""
    bnb = pytest.importorskip("bitsandbytes").nn

    def make(layer: nn.Linear) -> nn.Module:
        sizes = layer.in_features, layer.out_features, layer.bias is not None
        if bits == 8:
            made = bnb.Linear8bitLt(*sizes, has_fp16_weights=False)
            made.load_state_dict(layer.state_dict())
            return made.to("cpu")
        made = bnb.Linear4bit(*sizes, compute_dtype=torch.float32, quant_type="nf4")
        made.weight = bnb.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", module=made)
        made.bias = layer.bias
        return made.to("cpu")

    check(replaced(make))


def test_layers_of_gguf() -> None:
    """Of the layers and tensors that diffusers makes of a GGUF file."""
    gguf = pytest.importorskip("gguf")
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

    def make(layer: nn.Linear) -> nn.Module:
        kind = gguf.GGMLQuantizationType.Q8_0
        bytes_ = torch.from_numpy(gguf.quants.quantize(layer.weight.detach().numpy(), kind).copy())
        made = GGUFLinear(layer.in_features, layer.out_features, layer.bias is not None, torch.float32)
        made.weight, made.bias = GGUFParameter(bytes_, quant_type=kind), layer.bias
        return made

    check(replaced(make))
