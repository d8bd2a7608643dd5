"""Packages for a GPU of another machine: what needs no CUDA build of torch. tests/gpu_codegen writes them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import Tensor, nn

import fxcache
from fxcache.backends.driver_stub import linkable_driver
from fxcache.backends.export_elsewhere import OF_ANY_DEVICE, OF_THE_CPU, for_any_device
from fxcache.cli import main
from fxcache.errors import BackendError, CudaBuildError
from fxcache.torch_private import AbsentWeights, FakeTensorMode, make_fx
from tests.toy import latents, toy

CPU_BUILD = pytest.mark.skipif(torch.version.cuda is not None, reason="needs a CPU build of torch")
EXAMPLE = {"hidden_states": latents(1, 0)[0], "timestep": torch.ones(1)}


def export(path: Path, arch: str, backend: str = "inductor") -> None:
    cached = fxcache.transform(toy(), "F1B0_W4M0MC3_T1O1_R0.12")  # type: ignore[arg-type]
    fxcache.export(cached, path, EXAMPLE, arch=arch, backend=backend)


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="arch='sm_1' must be one of sm_80"):
        export(tmp_path / "a.pt2", "sm_1")
    with pytest.raises(BackendError, match="left out with backend"):
        export(tmp_path / "a.zip", "sm_90", backend="tensorrt")


@CPU_BUILD
def test_a_cpu_build_of_torch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CudaBuildError, match="install a CUDA build"):
        export(tmp_path / "a.pt2", "sm_90")
    words = ["export", str(tmp_path / "a.pt2"), "--device", "cuda", "--arch", "sm_90"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1
    assert done.output.splitlines()[-1].startswith(
        "Error: compiling for a GPU that is not there needs a CUDA"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_the_command_says_what_goes_together(tmp_path: Path) -> None:
    path = str(tmp_path / "a.pt2")
    lone = CliRunner().invoke(main, ["export", path, "--arch", "sm_90"])
    assert lone.exit_code == 2 and "give --device cuda" in lone.output
    here = CliRunner().invoke(main, ["export", path, "--device", "cuda"])
    assert here.exit_code == 2 and "or --arch to build for a GPU of another machine" in here.output
    number = CliRunner().invoke(main, ["export", path, "--device", "cuda:1", "--arch", "sm_90"])
    assert number.exit_code == 2
    other = CliRunner().invoke(main, ["export", path, "--device", "abacus"])
    assert other.exit_code == 2 and "is no device of torch" in other.output


class Attention(nn.Module):
    """Heads that are joined again by a view, which is one only as the CPU lays them out."""

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        heads = x.unflatten(-1, (2, 8)).transpose(1, 2)
        plain = F.scaled_dot_product_attention(heads, heads, heads)
        other = F.scaled_dot_product_attention(heads, heads, heads, attn_mask=bias, scale=0.3)
        causal = F.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        return (plain + other + causal).transpose(1, 2).flatten(-2)


def test_attention_is_that_of_any_device() -> None:
    x, bias = torch.randn(1, 5, 16), torch.randn(5, 5)
    with torch.no_grad():
        part = make_fx(Attention(), tracing_mode="fake")(x, bias)
    graph = part.graph
    assert len(graph.find_nodes(op="call_function", target=OF_THE_CPU)) == 3
    expected = part(x, bias)
    for_any_device(part)
    assert not graph.find_nodes(op="call_function", target=OF_THE_CPU)
    assert len(graph.find_nodes(op="call_function", target=OF_ANY_DEVICE)) == 3
    torch.testing.assert_close(part(x, bias), expected)
    torch.testing.assert_close(expected, Attention()(x, bias))


def test_weights_that_are_one_memory_have_one_stand_in() -> None:
    weights = AbsentWeights(FakeTensorMode(), "cuda:0")
    whole, other = torch.arange(6.0).reshape(2, 3), torch.zeros(2, 3)
    stand_in = weights.of(whole)
    assert stand_in.device == torch.device("cuda:0") and stand_in.stride() == whole.stride()
    assert weights.of(whole.detach()) is stand_in  # tied
    assert weights.of(other) is not stand_in
    part = weights.of(whole[1])
    assert part.storage_offset() == 0 and part.untyped_storage().nbytes() == 12
    across = weights.of(whole.T)
    assert across.stride() == (1, 3) and across is not stand_in


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_what_calls_the_driver_is_linked_without_one(tmp_path: Path) -> None:
    header, source = tmp_path / "cuda.h", tmp_path / "main.c"
    header.write_text("#define cuMemAlloc cuMemAlloc_v2\nint cuInit(unsigned);\n")
    source.write_text("int cuMemAlloc_v2(void); int f(void) { return cuMemAlloc_v2(); }\n")
    library = tmp_path / "f.so"
    command = ["gcc", "-shared", "-fPIC", "-Wl,--as-needed", str(source), "-lcuda", "-o", str(library)]
    before = os.environ.get("LIBRARY_PATH")
    with linkable_driver(header):
        subprocess.run(command, check=True)
    assert os.environ.get("LIBRARY_PATH") == before
    assert b"libcuda.so.1" in library.read_bytes()  # it is looked for where this is loaded
