"""A package does what the module does: same hits, same results, its own state for each request."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fxcache
from fxcache import CachedTransformer, PackagedTransformer, Plan
from fxcache.api.load import load
from fxcache.errors import ExportError, TooManyContextsError
from tests.toy import latents, timesteps, toy

STEPS = 28


def run(model: torch.nn.Module, seed: int, batch: int = 2, tokens: int = 5) -> list[Tensor]:
    with torch.no_grad():
        return [
            model(hidden_states=x, timestep=t)
            for x, t in zip(latents(STEPS, seed, batch, tokens), timesteps(STEPS, batch), strict=True)
        ]


@pytest.fixture(scope="module")
def package(toy_package: Path) -> PackagedTransformer:
    return load(toy_package)


def test_a_trajectory_of_28_steps_equals_the_module(
    package: PackagedTransformer, toy_model: CachedTransformer
) -> None:
    for seed in (0, 1):
        for a, b in zip(run(package, seed), run(toy_model, seed), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    packaged, module = package.stats()["default"], toy_model.stats()["default"]
    assert packaged.hits == module.hits
    assert packaged.residual_diffs == pytest.approx(module.residual_diffs, rel=1e-4)
    assert packaged.flops_saved == module.flops_saved


@pytest.mark.parametrize(("batch", "tokens"), [(2, 9), (3, 5), (4, 2)])
def test_other_sizes(
    package: PackagedTransformer, toy_model: CachedTransformer, batch: int, tokens: int
) -> None:
    for a, b in zip(run(package, 2, batch, tokens), run(toy_model, 2, batch, tokens), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_what_stops_the_compiler_is_an_error_of_export(tmp_path: Path) -> None:
    inputs = {"hidden_states": latents(1, 0)[0], "timestep": timesteps(1)[0]}
    cached = fxcache.transform(toy(), "F1B1_W3M0MC2_T1O1_R1000")
    options = {"cpp.cxx": (None, str(tmp_path / "no-compiler"))}
    for dynamic in (False, True):
        with pytest.raises(ExportError, match="the compiler says") as caught:
            fxcache.export(cached, tmp_path / "toy.pt2", inputs, dynamic=dynamic, **options)
        assert ("dynamic=False" in str(caught.value)) == dynamic
    assert not list(tmp_path.iterdir())


def across(x: Tensor) -> Tensor:
    """Equal values, laid out the other way round."""
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


def test_inputs_in_any_memory_layout(package: PackagedTransformer, toy_model: CachedTransformer) -> None:
    """Pipelines give one timestep expanded over the batch; compiled code would read past its end."""
    x, t = latents(STEPS, 5, 2), timesteps(STEPS, 1)
    package.reset()
    with torch.no_grad():
        for a, b in zip(x, t, strict=True):
            wanted = toy_model(a, b.repeat(2))
            assert not across(a).is_contiguous()
            torch.testing.assert_close(package(across(a), b.expand(2)), wanted, rtol=1e-4, atol=1e-4)


def test_interleaved_requests_equal_the_same_run_alone(package: PackagedTransformer) -> None:
    package.reset()
    alone = {seed: run(package, seed) for seed in (3, 4)}
    package.reset()
    together: dict[int, list[Tensor]] = {3: [], 4: []}
    with torch.no_grad():
        for i, t in enumerate(timesteps(STEPS, 2)):
            for seed in (3, 4):
                with package.cache_context(f"request {seed}"):
                    x = latents(STEPS, seed, 2)[i]
                    together[seed].append(package(hidden_states=x, timestep=t))
    for seed in (3, 4):
        assert all(torch.equal(a, b) for a, b in zip(together[seed], alone[seed], strict=True))
    assert set(package.stats().contexts) == {"request 3", "request 4"}


def test_state_may_be_kept_by_the_caller(package: PackagedTransformer) -> None:
    package.reset()
    wanted = run(package, 5)
    x, t = latents(STEPS, 5, 2), timesteps(STEPS, 2)
    state = package.new_state(package.input_sizes(x[0], t[0]))
    with torch.no_grad():
        got = [package.run(a, b, *state.values())[0] for a, b in zip(x, t, strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_requests_in_threads_of_their_own(package: PackagedTransformer) -> None:
    """Also where one is done, and its pipeline resets, while another is under way."""
    package.reset()
    alone = {seed: run(package, seed) for seed in (6, 7)}
    package.reset()
    half_way, other_done = threading.Event(), threading.Event()

    def slow() -> list[Tensor]:
        results = []
        with torch.no_grad():
            for i, (x, t) in enumerate(zip(latents(STEPS, 6, 2), timesteps(STEPS, 2), strict=True)):
                if i == STEPS // 2:
                    half_way.set()
                    assert other_done.wait(60)
                results.append(package(x, t))
        return results

    def quick() -> list[Tensor]:
        assert half_way.wait(60)
        results = run(package, 7)
        package._reset_stateful_cache()
        other_done.set()
        return results

    with ThreadPoolExecutor(2) as threads:
        found = {6: threads.submit(slow), 7: threads.submit(quick)}
        for seed, future in found.items():
            assert all(torch.equal(a, b) for a, b in zip(future.result(), alone[seed], strict=True))


def test_names_do_not_pile_up(toy_package: Path) -> None:
    package = load(toy_package, max_contexts=2)
    x, t = latents(1, 0, 2)[0], torch.ones(2)
    for name in ("a", "b"):
        with package.cache_context(name):
            package(x, t)
    with package.cache_context("c"), pytest.raises(TooManyContextsError, match="max_contexts"):
        package(x, t)
    package._reset_stateful_cache()
    with package.cache_context("c"):
        package(x, t)


def test_a_pipelines_reset_keeps_the_record(package: PackagedTransformer) -> None:
    package.reset()
    run(package, 0)
    before = package.stats()["default"]
    package._reset_stateful_cache()
    after = package.stats()["default"]
    assert after.hits == before.hits and after.state_bytes < before.state_bytes


@pytest.mark.full
def test_the_embedded_flux_as_a_package_in_its_pipeline(tmp_path: Path) -> None:
    from fxcache import embedded

    pipe = embedded.load_pipeline()
    cached = fxcache.transform(pipe.transformer, "F1B0_W4M0MC3_T1O1_R0.12")
    prompt, pooled = embedded.class_embeddings([0, 1])
    ids = torch.zeros(49, 3)
    example = {
        "hidden_states": torch.randn(2, 49, 16),
        "timestep": torch.ones(2),
        "guidance": None,
        "pooled_projections": pooled,
        "encoder_hidden_states": prompt,
        "txt_ids": torch.zeros(2, 3),
        "img_ids": ids,
        "joint_attention_kwargs": {},
        "return_dict": False,
    }
    path = fxcache.export(cached, tmp_path / "flux.pt2", example)
    weights = sum(p.numel() * p.element_size() for p in pipe.transformer.parameters())
    assert path.stat().st_size <= 1.05 * weights + 5 * 2**20
    package = load(path)
    labels = [1, 7]
    pipe.transformer = cached
    want = embedded.sample(pipe, labels, num_inference_steps=28)
    hits = cached.stats()["cond"].hits
    pipe.transformer = package
    got = embedded.sample(pipe, labels, num_inference_steps=28)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
    assert package.stats()["cond"].hits == hits and any(hits)


def _loop(model: Callable[..., Tensor], steps: int) -> Tensor:
    """What `bench/cpp/sample.cpp` does."""
    x = torch.linspace(-1, 1, 2 * 7 * 8).reshape(2, 7, 8)
    with torch.no_grad():
        for i in range(steps):
            x = x - model(x, torch.full((2,), 1 - i / steps)) / steps
    return x


@pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("g++") is None, reason="needs cmake and g++"
)
def test_a_program_without_python_gives_the_same_checksum(
    toy_package: Path, planned_package: Path, tmp_path: Path
) -> None:
    source = Path(__file__).parents[2] / "bench" / "cpp"
    configure = ["cmake", "-S", str(source), "-B", str(tmp_path)]
    configure.append(f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}")
    for command in (configure, ["cmake", "--build", str(tmp_path), "--target", "sample"]):
        done = subprocess.run(command, capture_output=True, text=True)
        if torch.version.cuda and "CUDA cannot be found" in done.stderr:
            pytest.skip("CMake takes a CUDA build of torch beside a CUDA toolkit only, and finds none")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    def sampled(package: Path, steps: int, *settings: Path | str) -> tuple[float, int]:
        arguments = [str(package), str(steps), "2", "7", "8", *map(str, settings)]
        done = subprocess.run([str(tmp_path / "sample"), *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        checksum, hits = done.stdout.split()
        return float(checksum), int(hits)

    model = fxcache.transform(toy(), "F1B1_W3M0MC2_T1O1_R1000")
    checksum, hits = sampled(toy_package, 20)
    assert checksum == pytest.approx(_loop(model, 20).double().abs().sum().item(), rel=1e-5)
    assert hits == model.stats().cached > 0

    # The same package with other settings.
    for text in ("F1B1_W2M7MC3_T1O1_R1000_I2_A9", "F1B1_W9M0MC0_T1O1_R0_S11001s", "C0_Q0_NONE"):
        model.configure(text)
        checksum, hits = sampled(toy_package, 20, text)
        assert checksum == pytest.approx(_loop(model, 20).double().abs().sum().item(), rel=1e-5)
        assert hits == model.stats().cached

    # One package, and two plans that come as files.
    times = tuple(1 - i / 6 for i in range(6))
    rows = ((1, 0, 0), (1, 0, 0), (0, 2, -1), (1.5, -1, 0.5), (0, 1.5, -0.5), (1, 0, 0))
    first = Plan(steps=6, computed=(0, 1, 3, 5), weights=rows, timesteps=times)
    second = Plan(steps=4, computed=(0, 1), weights=((1, 0), (1, 0), (0, 1), (0, 1)), timesteps=times[:4])
    files = [p.save(tmp_path / f"{p.steps}.json") for p in (first, second)]
    planned = fxcache.transform(toy(), first)
    for given in (first, second, [first, second]):
        planned.use(given)
        given_files = files if isinstance(given, list) else [files[given is second]]
        checksum, hits = sampled(planned_package, 6, *given_files)
        assert checksum == pytest.approx(_loop(planned, 6).double().abs().sum().item(), rel=1e-5)
        assert hits == planned.stats().cached > 0
