"""B17: a loaded package tells requests apart as the module does that it was made of.

Both share the rule (`fxcache.trajectories`); a package brings what the rule must know of its inputs. So each
way to interleave requests returns, with a package, bitwise what the package returns for each request alone,
and the module's results and hits.
"""

from __future__ import annotations

import dataclasses
import gc
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache import CachedTransformer, PackagedTransformer
from fxcache.errors import PackageError
from fxcache.ir.roles import Roles
from tests.package.test_safety import edited
from tests.toy import dual, latents, timesteps

STEPS = 28
SETTING = "F1B1_W3M0MC2_T1O1_R1000"


@dataclass(frozen=True)
class Request:
    """What a pipeline holds for one picture: start noise, and conditioning that is the same at each step."""

    samples: list[Tensor]
    times: list[Tensor]
    text: Tensor
    extra: Tensor

    @staticmethod
    def of(seed: int, steps: int = STEPS, batch: int = 2, tokens: int = 5) -> Request:
        generator = torch.Generator().manual_seed(100 + seed)
        text, extra = (torch.randn(batch, tokens, 8, generator=generator) for _ in range(2))
        return Request(latents(steps, seed, batch, tokens), timesteps(steps, batch), text, extra)

    def step(self, model: nn.Module, index: int) -> Tensor:
        with torch.no_grad():
            return model(
                hidden_states=self.samples[index],
                timestep=self.times[index],
                encoder_hidden_states=self.text,
                extra=self.extra,
            )

    def run(self, model: nn.Module, indices: Iterable[int] = range(STEPS)) -> list[Tensor]:
        return [self.step(model, i) for i in indices]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    request = Request.of(0)
    example = {
        "hidden_states": request.samples[0],
        "timestep": request.times[0],
        "encoder_hidden_states": request.text,
        "extra": request.extra,
    }
    path = tmp_path_factory.mktemp("package") / "dual.pt2"
    return fxcache.export(fxcache.transform(dual(), SETTING), path, example)


@pytest.fixture
def package(exported: Path) -> PackagedTransformer:
    return fxcache.load(exported)


@pytest.fixture
def module() -> CachedTransformer:
    return fxcache.transform(dual(), SETTING)


Results = dict[str, list[Tensor]]
Work = Callable[[Any], Results]


def hits(model: Any) -> dict[str, tuple[bool, ...]]:
    return {name: c.hits for name, c in model.stats().contexts.items()}


def equal(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return len(found) == len(wanted) and all(map(torch.equal, found, wanted))


def check(package: PackagedTransformer, module: CachedTransformer, work: Work, alone: Results) -> None:
    """Assert that `work` returns each request's results `alone`, bitwise, and does what the module does."""
    package.reset()
    found, wanted = work(package), work(module)
    assert found.keys() == wanted.keys() == alone.keys()
    for name in found:
        assert equal(found[name], alone[name]), name
        for a, b in zip(found[name], wanted[name], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert hits(package) == hits(module) and any(map(any, hits(module).values()))


def alone(package: PackagedTransformer, **requests: Request) -> Results:
    results: Results = {}
    for name, request in requests.items():
        package.reset()
        results[name] = request.run(package)
    return results


def in_turn(model: nn.Module, **requests: Request) -> Results:
    results: Results = {name: [] for name in requests}
    for i in range(STEPS):
        for name, request in requests.items():
            results[name].append(request.step(model, i))
    return results


def behind(model: nn.Module, one: Request, two: Request) -> Results:
    """The second begins when the first is half way, as in a server."""
    results: Results = {"one": [], "two": []}
    for i in range(STEPS + STEPS // 2):
        if i < STEPS:
            results["one"].append(one.step(model, i))
        if i >= STEPS // 2:
            results["two"].append(two.step(model, i - STEPS // 2))
    return results


def test_a_run_of_28_steps(package: PackagedTransformer, module: CachedTransformer) -> None:
    one = Request.of(0)
    check(package, module, lambda model: {"one": one.run(model)}, alone(package, one=one))
    packaged, modules = package.stats()["default"], module.stats()["default"]
    assert packaged.residual_diffs == pytest.approx(modules.residual_diffs, rel=1e-4)
    assert (packaged.flops_done, packaged.flops_saved) == (modules.flops_done, modules.flops_saved)
    assert packaged.state_bytes == modules.state_bytes


def test_two_plain_requests_in_turn(package: PackagedTransformer, module: CachedTransformer) -> None:
    requests = {"one": Request.of(0), "two": Request.of(1)}
    check(package, module, lambda model: in_turn(model, **requests), alone(package, **requests))
    assert set(hits(package)) == {"default", "default/2"}


def test_halves_of_guidance_with_one_sample(package: PackagedTransformer, module: CachedTransformer) -> None:
    cond = Request.of(0)
    uncond = dataclasses.replace(cond, text=torch.zeros_like(cond.text))
    requests = {"cond": cond, "uncond": uncond}
    check(package, module, lambda model: in_turn(model, **requests), alone(package, **requests))


def test_requests_that_differ_in_their_noise_only(
    package: PackagedTransformer, module: CachedTransformer
) -> None:
    one = Request.of(0)
    requests = {"one": one, "two": dataclasses.replace(one, samples=Request.of(1).samples)}
    check(package, module, lambda model: in_turn(model, **requests), alone(package, **requests))


def test_requests_of_other_sizes_in_turn(package: PackagedTransformer, module: CachedTransformer) -> None:
    requests = {"one": Request.of(0), "two": Request.of(1, batch=3, tokens=7)}
    check(package, module, lambda model: in_turn(model, **requests), alone(package, **requests))


def test_a_request_behind_another(package: PackagedTransformer, module: CachedTransformer) -> None:
    one, two = Request.of(0), Request.of(1)
    check(package, module, lambda model: behind(model, one, two), alone(package, one=one, two=two))


def test_contexts(package: PackagedTransformer, module: CachedTransformer) -> None:
    """Names tell apart what nothing else does: two runs of one request."""
    one = Request.of(0)

    def work(model: Any) -> Results:
        results: Results = {"a": [], "b": []}
        for i in range(STEPS):
            for name in results:
                with model.cache_context(name):
                    results[name].append(one.step(model, i))
        return results

    check(package, module, work, alone(package, a=one, b=one))
    assert set(hits(package)) == {"a", "b"}


def test_two_plain_requests_in_one_context(package: PackagedTransformer, module: CachedTransformer) -> None:
    requests = {"one": Request.of(0), "two": Request.of(1)}

    def work(model: Any) -> Results:
        with model.cache_context("cond"):
            return in_turn(model, **requests)

    check(package, module, work, alone(package, **requests))


def test_threads(package: PackagedTransformer, module: CachedTransformer) -> None:
    """One is done, and its pipeline resets, while the other is under way."""
    one, two = Request.of(0), Request.of(1)

    def work(model: Any) -> Results:
        half_way, other_done = threading.Event(), threading.Event()

        def slow() -> list[Tensor]:
            first = one.run(model, range(STEPS // 2))
            half_way.set()
            assert other_done.wait(60)
            return first + one.run(model, range(STEPS // 2, STEPS))

        def quick() -> list[Tensor]:
            assert half_way.wait(60)
            results = two.run(model)
            model._reset_stateful_cache()
            other_done.set()
            return results

        with ThreadPoolExecutor(2) as threads:
            found = {"one": threads.submit(slow), "two": threads.submit(quick)}
            return {name: future.result() for name, future in found.items()}

    check(package, module, work, alone(package, one=one, two=two))


@pytest.mark.parametrize("context", [None, "cond"])
def test_a_cancelled_run_then_a_partial_one(
    package: PackagedTransformer, module: CachedTransformer, context: str | None
) -> None:
    """The second run starts at a lower time than the first had reached, with the same conditioning."""
    cancelled = Request.of(0)
    partial = dataclasses.replace(cancelled, samples=Request.of(1).samples)
    package.reset()
    wanted = partial.run(package, range(12, STEPS))

    def work(model: Any) -> Results:
        def both() -> list[Tensor]:
            cancelled.run(model, range(6))
            return partial.run(model, range(12, STEPS))

        if context is None:
            return {"partial": both()}
        with model.cache_context(context):
            return {"partial": both()}

    check(package, module, work, {"partial": wanted})


def test_inputs_in_another_memory_layout_are_the_same_objects_still(
    package: PackagedTransformer, module: CachedTransformer
) -> None:
    """They are copied for the compiled code, but requests are known by the objects that were given."""
    one = Request.of(0)

    def laid_out_across() -> Request:
        text, extra = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (one.text, one.extra))
        assert not text.is_contiguous() and torch.equal(text, one.text)
        return dataclasses.replace(one, text=text, extra=extra)

    first, second = laid_out_across(), laid_out_across()

    def work(model: Any) -> Results:
        with model.cache_context("cond"):
            return behind(model, first, second)

    check(package, module, work, alone(package, one=first, two=second))


def test_a_negated_view_is_read_as_its_values(package: PackagedTransformer) -> None:
    """Compiled code reads memory, where the sign is not yet."""
    one = Request.of(0, steps=1)
    negative = dataclasses.replace(one, samples=[torch.complex(one.text, -one.samples[0]).conj().imag])
    assert negative.samples[0].is_neg() and torch.equal(negative.samples[0], one.samples[0])
    wanted = one.step(package, 0)
    package.reset()
    assert torch.equal(negative.step(package, 0), wanted)


def test_a_request_that_is_gone_keeps_no_state(package: PackagedTransformer) -> None:
    one = Request.of(0)
    one.run(package)
    held = package.stats().state_bytes
    del one
    gc.collect()
    assert package.stats().state_bytes < held and any(package.stats()["default"].hits)


def test_flops_are_those_of_the_sizes_that_were_exported(package: PackagedTransformer) -> None:
    Request.of(0, batch=3).run(package)
    assert package.stats()["default"].flops_done is None


def test_the_manifest_says_what_inputs_are_for(exported: Path, package: PackagedTransformer) -> None:
    assert package.manifest.roles == Roles(sample=0, time=1, conditioning=(2, 3))


def test_packages_that_do_not_say_it_are_to_be_exported_again(exported: Path, tmp_path: Path) -> None:
    def older(fields: dict[str, Any]) -> None:
        fields["format"] = 1
        del fields["roles"]

    with pytest.raises(PackageError, match=r"format is 1, of an older fxcache.*export it again"):
        fxcache.load(edited(exported, tmp_path / "older.pt2", older))
    for number, wrong in enumerate(({"sample": 9}, {"conditioning": [4]}, {"time": "timestep"})):
        with pytest.raises(PackageError, match=r"fxcache\.json is not what fxcache writes"):
            change = lambda f, w=wrong: f["roles"].update(w)  # noqa: E731
            fxcache.load(edited(exported, tmp_path / f"wrong{number}.pt2", change))
