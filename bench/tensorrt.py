"""Eager, inductor and TensorRT on a GPU: are the pictures the same, and how fast are the steps?

    python -m bench.tensorrt [--config F8B0_W8M0MC3_T1O1_R0.12] [--dtype bf16] [--steps 28] [--model FOLDER]

What could not be verified without a GPU is verified by this one command: engines are deserialized and
run, their numbers compared with eager, refit after a change of weights, the engine cache, a range of
batch sizes, and a package written and loaded. It exits with status 2 and says so where there is no GPU
or no torch-tensorrt.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import fxcache
from fxcache.backends.tensorrt import engine_report, refit
from fxcache.backends.tensorrt.available import require_gpu, require_torch_tensorrt
from fxcache.embedded import load_transformer
from fxcache.errors import TensorRTDeviceError, TensorRTMissingError
from fxcache.runtime.cached_transformer import CachedTransformer

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Largest relative error of the last latents against eager that counts as the same numbers.
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 5e-2}
UNAVAILABLE = 2
BATCHED = ("hidden_states", "encoder_hidden_states", "pooled_projections", "guidance")


@dataclass(frozen=True)
class Row:
    """One backend: relative error of the final latents, hits, and milliseconds."""

    backend: str
    error: float
    same_hits: bool
    computed_ms: float
    cached_ms: float
    first_call_s: float


def main() -> int:
    options = _arguments()
    try:
        report = verify(options.config, options.dtype, options.steps, options.model)
    except (TensorRTDeviceError, TensorRTMissingError) as error:
        print(f"bench.tensorrt cannot run here: {error}", file=sys.stderr)
        return UNAVAILABLE
    print(json.dumps(report, indent=1))
    return 0 if report["passed"] else 1


def verify(config: str, dtype: str, steps: int, folder: str | None = None) -> dict[str, Any]:
    """Everything that is checked here, as plain values; `passed` sums it up.

    Args:
        config: cache setting.
        dtype: one of `DTYPES`.
        folder: of a FLUX transformer; None for the embedded one.

    Raises:
        TensorRTMissingError, TensorRTDeviceError: there is no torch-tensorrt, or no GPU.
    """
    require_torch_tensorrt()
    require_gpu(())
    model, inputs = _model(folder, DTYPES[dtype])
    model = model.requires_grad_(False).eval().cuda()
    inputs = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    cached = fxcache.transform(model, config)
    with tempfile.TemporaryDirectory() as temporary:
        rows = _compare(cached, inputs, steps, Path(temporary) / "engines")
        checks = _checks(cached, inputs, steps, Path(temporary))
    refitted, stale = _refit(cached, inputs, steps)  # last: it changes the weights
    checks["refit"] = refitted
    limit = TOLERANCE[dtype]
    good = all(r.error <= limit and r.same_hits for r in rows) and all(e <= limit for e in checks.values())
    passed = good and stale > limit  # the new weights must be told from the old
    return {
        "device": torch.cuda.get_device_name(),
        "rows": [asdict(r) for r in rows],
        "errors": checks,
        "without_refit": stale,
        "tolerance": limit,
        "passed": passed,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", default="F1B0_W4M0MC3_T1O1_R0.12", help="cache setting")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--model", help="folder of a diffusers FLUX transformer; default: the embedded one")
    return parser.parse_args()


def _model(folder: str | None, dtype: torch.dtype) -> tuple[torch.nn.Module, dict[str, Any]]:
    from diffusers.models import FluxTransformer2DModel

    if folder is None:
        model: Any = load_transformer(dtype)
        side, text = 7, 2
    else:
        model = FluxTransformer2DModel.from_pretrained(folder, torch_dtype=dtype)
        side, text = 64, 512
    generator, config = torch.Generator().manual_seed(0), model.config
    rows = torch.arange(side * side)
    inputs = {
        "hidden_states": torch.randn(2, side * side, config.in_channels, generator=generator),
        "encoder_hidden_states": torch.randn(2, text, config.joint_attention_dim, generator=generator),
        "pooled_projections": torch.randn(2, config.pooled_projection_dim, generator=generator),
        "img_ids": torch.stack((torch.zeros_like(rows), rows // side, rows % side), dim=1).float(),
        "txt_ids": torch.zeros(text, 3),
    }
    if config.guidance_embeds:
        inputs["guidance"] = torch.full((2,), 3.5)
    return model, {k: v.to(dtype) for k, v in inputs.items()} | {"return_dict": False}


def _sample(model: Any, inputs: dict[str, Any], steps: int) -> tuple[torch.Tensor, list[float]]:
    """Euler steps of a flow from noise; the latents, and milliseconds of each step."""
    latents, times = inputs["hidden_states"].float(), torch.linspace(1, 0, steps + 1)
    milliseconds: list[float] = []
    for now, then in itertools.pairwise(times):
        step = {**inputs, "hidden_states": latents.to(inputs["hidden_states"].dtype)}
        step["timestep"] = now.to(step["hidden_states"]).expand(len(latents)).contiguous()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        velocity = model(**step)[0]
        torch.cuda.synchronize()
        milliseconds.append(1000 * (time.perf_counter() - begin))
        latents = latents + (then - now).item() * velocity.float()
    return latents, milliseconds


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def _compare(cached: CachedTransformer, inputs: dict[str, Any], steps: int, engines: Path) -> list[Row]:
    backends: dict[str, Callable[[], CachedTransformer]] = {
        "eager": lambda: cached,
        "inductor": lambda: fxcache.compile(cached),
        "tensorrt": lambda: fxcache.compile(cached, backend="tensorrt", cache_dir=engines),
        "tensorrt, engines from the cache": lambda: fxcache.compile(
            cached, backend="tensorrt", cache_dir=engines
        ),
    }
    expected, _ = _sample(cached, inputs, steps)
    hits = _hits(cached)
    rows: list[Row] = []
    for name, make in backends.items():
        model = make()
        model.reset()
        begin = time.perf_counter()
        _sample(model, inputs, steps)
        first = time.perf_counter() - begin
        found, milliseconds = _sample(model, inputs, steps)
        ours = _hits(model)
        computed = [m for m, hit in zip(milliseconds, ours, strict=True) if not hit]
        skipped = [m for m, hit in zip(milliseconds, ours, strict=True) if hit]
        rows.append(
            Row(name, _error(found, expected), ours == hits, _median(computed), _median(skipped), first)
        )
        if name.startswith("tensorrt"):
            for coverage in engine_report(model):
                print(*coverage, sep="\n", file=sys.stderr)
    return rows


def _hits(model: CachedTransformer) -> tuple[bool, ...]:
    return model.stats()["default"].segments[0].hits


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else float("nan")


def _checks(cached: CachedTransformer, inputs: dict[str, Any], steps: int, folder: Path) -> dict[str, float]:
    """Relative errors against eager: a loaded package, and one set of engines for two batch sizes."""
    errors: dict[str, float] = {}
    expected, _ = _sample(cached, inputs, steps)
    example = {**inputs, "timestep": torch.ones(2, dtype=inputs["hidden_states"].dtype, device="cuda")}
    package = fxcache.export(cached, folder / "flux.zip", example, backend="tensorrt", dynamic=False)
    errors["package"] = _error(_sample(fxcache.load(package), inputs, steps)[0], expected)

    batches = {"hidden_states": {0: (2, 4)}}
    compiled = fxcache.compile(cached, backend="tensorrt", dynamic=batches, require_full=True)
    wide = {n: torch.cat((v, v)) if n in BATCHED else v for n, v in inputs.items()}
    for name, case in (("batch 2 of a range", inputs), ("batch 4 of a range", wide)):
        expected, _ = _sample(cached, case, steps)
        errors[name] = _error(_sample(compiled, case, steps)[0], expected)
    assert len(engine_report(compiled)) == 1, "the range was not served by one set of engines"
    return errors


def _refit(cached: CachedTransformer, inputs: dict[str, Any], steps: int) -> tuple[float, float]:
    """Relative error after the weights changed: of refitted engines, and of the engines before."""
    compiled = fxcache.compile(cached, backend="tensorrt", refit=True)
    before, _ = _sample(compiled, inputs, steps)
    for parameter in cached.original.parameters():
        parameter.mul_(1.05)  # as a fused LoRA would, in place
    refit(compiled)
    cached.reset()
    changed, _ = _sample(cached, inputs, steps)
    return _error(_sample(compiled, inputs, steps)[0], changed), _error(before, changed)


if __name__ == "__main__":
    sys.exit(main())
