"""The coverage report, precision and leftovers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import fxcache
from fxcache.backends.tensorrt import Lowered, TensorRTOptions, compile_tensorrt, coverage_of
from fxcache.backends.tensorrt.compiling import captured_shapes, prepare_all
from fxcache.backends.tensorrt.lowering import DOUBLE, NO_CONVERTER, engines_in, lower_stage, require_full
from fxcache.backends.tensorrt.options import DTYPES
from fxcache.cli import main
from fxcache.errors import LeftoverOperatorsError, TensorRTDeviceError
from tests.backends.tensorrt.models import STAGES, Odd
from tests.behaviour.zoo import find
from tests.tiny_pipelines import save_sd3
from tests.toy import ToyDiT

pytestmark = [pytest.mark.tensorrt, pytest.mark.filterwarnings("default")]
CONFIG = "F1B1_W1M0MC2_T1O1_R0.9"


def _toy_inputs() -> dict[str, torch.Tensor]:
    return {"hidden_states": torch.ones(2, 5, 8), "timestep": torch.ones(2)}


def test_leftovers_are_named_with_the_reason() -> None:
    cached = fxcache.transform(Odd().requires_grad_(False), CONFIG)
    specialization, _ = cached.specialization_for(_toy_inputs())
    coverage = {c.stage: c for c in coverage_of(specialization.program, TensorRTOptions())}
    assert [coverage[s].full for s in STAGES] == [True, True, True, False]
    left = coverage["back"].leftovers
    assert left == {
        "special_bessel_j0.default": NO_CONVERTER,
        "_to_copy.default": DOUBLE,
        "sum.dim_IntList": DOUBLE,
    }
    with pytest.raises(LeftoverOperatorsError, match="special_bessel_j0") as caught:
        require_full(coverage["back"])
    assert caught.value.leftovers == dict(left)


def test_weights_in_two_engines_are_counted() -> None:
    model = ToyDiT()
    model.head.weight = model.embed.weight  # front and back
    program = (
        fxcache.transform(model.requires_grad_(False), CONFIG).specialization_for(_toy_inputs())[0].program
    )
    coverage = {c.stage: c for c in coverage_of(program, TensorRTOptions())}
    assert {s: c.repeated for s, c in coverage.items()} == {
        "front": 0,
        "skip": 0,
        "compute": 0,
        "back": model.head.weight.nbytes,
    }


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_float32_model_in_lower_precision(precision: str) -> None:
    """Engines are strongly typed: the casts are in the graph, and what passes between stages is float32."""
    torch.manual_seed(0)
    cached = fxcache.transform(ToyDiT().requires_grad_(False), CONFIG)
    program = cached.specialization_for(_toy_inputs())[0].program
    options = TensorRTOptions(precision=precision)  # type: ignore[arg-type]
    for stage in prepare_all(program, captured_shapes(program), options)[1]:
        assert stage.engine is not None
        settings = options.settings()
        lowered, coverage = lower_stage(stage, settings, dry=True)
        assert coverage.full and lowered is not None
        casts = [n for n in stage.engine.graph.graph.nodes if n.kwargs.get("dtype") == DTYPES[precision]]
        assert bool(casts) == (stage.name != "skip")
        values = [stage.specs[n].example() for n in stage.engine.inputs]
        values = [torch.rand_like(v) if v.is_floating_point() else v for v in values]
        for ours, theirs in zip(lowered(*values), stage.engine.graph(*values), strict=True):
            assert ours.dtype == theirs.dtype != DTYPES[precision]
            torch.testing.assert_close(ours, theirs, rtol=5e-2, atol=5e-2, equal_nan=True)
        built, _ = lower_stage(stage, settings, dry=False)
        assert all(len(e.serialized_engine) > 1000 for e in engines_in(built).values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_compiling_says_so() -> None:
    cached = fxcache.transform(ToyDiT().requires_grad_(False), CONFIG)
    with pytest.raises(TensorRTDeviceError, match="tensorrt-report"):
        compile_tensorrt(cached)
    with pytest.raises(TensorRTDeviceError):
        cached.lowered(Lowered(TensorRTOptions()))(**_toy_inputs())


def test_the_command_prints_the_table(tmp_path: Path) -> None:
    model, inputs = find("PixArtTransformer2DModel").build()
    model.save_config(tmp_path)
    arguments = [
        f"--input={n}={'x'.join(map(str, v.shape))}" for n, v in inputs.items() if hasattr(v, "shape")
    ]
    arguments = [a + ":int64" if "timestep" in a else a for a in arguments]
    run = CliRunner().invoke(
        main, ["tensorrt-report", str(tmp_path), "--config", CONFIG, "--dtype", "fp32", "--json", *arguments]
    )
    assert run.exit_code == 0, run.output
    rows = json.loads(run.stdout)
    assert [r["stage"] for r in rows] == list(STAGES)
    assert all(r["engines"] == 1 and not r["left_in_pytorch"] for r in rows)


def test_a_pipeline_makes_the_call_itself(tmp_path: Path) -> None:
    folder = save_sd3(tmp_path / "sd3")
    words = ["--height", "16", "--width", "16", "--config", "F1B1_W1M0MC2_T1O1_R0.9", "--json"]
    run = CliRunner().invoke(main, ["tensorrt-report", str(folder), *words])
    assert run.exit_code == 0, run.output
    assert [row["stage"] for row in json.loads(run.stdout)] == list(STAGES)


def test_the_command_prints_what_a_reader_needs() -> None:
    run = CliRunner().invoke(
        main, ["tensorrt-report", "embedded", "--config", CONFIG], env={"COLUMNS": "120"}
    )
    assert run.exit_code == 0, run.output
    for words in (*STAGES, "nothing was built or run", "Beside the engines", "Every stage is one engine."):
        assert words in run.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "--input", "x=1x2"], "there is no such folder, file or class"),
        (["nowhere"], "there is no such folder, file or class"),
        (["nowhere", "--input", "x=1xtwo"], "is not NAME=SHAPE"),
        (["embedded", "--config", "F9"], "F9"),
    ],
)
def test_mistakes_on_the_command_line_are_one_clear_line(arguments: list[str], words: str) -> None:
    run = CliRunner().invoke(main, ["tensorrt-report", *arguments])
    assert run.exit_code != 0 and words in run.output and "Traceback" not in run.output
