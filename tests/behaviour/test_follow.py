"""Contexts that follow another: hits where it has hits, and nothing run to decide."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from torch import Tensor, nn

import fxcache
from fxcache import CacheConfig, CachedTransformer, FixedInterval, TaylorSeer
from fxcache.errors import ConfigError, ExportError, GraphSettingError, IdleCacheWarning, NotationError
from fxcache.policies import Follow
from tests.behaviour.pipelines.build import CASES, FLUX
from tests.behaviour.zoo import find
from tests.reference_loop import ReferenceLoop
from tests.strategies import configs
from tests.sweep import sweep
from tests.toy import ToyDiT, latents, timesteps

STEPS = 12
FOLLOW = {"uncond": "cond"}
BOTH = ("cond", "uncond")
DECIDED = CacheConfig(
    fn_compute_blocks=1, max_warmup_steps=2, residual_diff_threshold=0.15, max_continuous_cached_steps=3
)  # hits depend on what is drawn
REPLAYED = CacheConfig.from_string("F1B0_W1M0MC0_T0O1_R1000").replace(follow=FOLLOW)  # nearly all hits


class Guided(ToyDiT):
    """A toy that is told what to draw."""

    def forward(self, hidden_states: Tensor, timestep: Tensor, text: Tensor) -> Tensor:  # type: ignore[override]
        hidden_states = self.embed(hidden_states)
        temb = self.conditioning(timestep, text)
        for block in self.blocks:
            hidden_states = block(hidden_states, temb)
        return self.head(hidden_states)

    def conditioning(self, timestep: Tensor, text: Tensor) -> Tensor:
        return torch.sin(timestep).reshape(-1, 1, 1) + text[:, None]


def guided() -> Guided:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Guided().eval().requires_grad_(False)


@dataclass
class Request:
    """One sampling run with guidance, stepped by the caller; every step calls both contexts.

    start: the step at which `uncond` is called first.
    """

    model: CachedTransformer
    seed: int = 0
    names: Sequence[str] = BOTH
    start: int = 0
    step: int = 0
    outputs: dict[str, list[Tensor]] = field(default_factory=lambda: {name: [] for name in BOTH})

    def __post_init__(self) -> None:
        self.samples, self.times = latents(STEPS, self.seed), timesteps(STEPS)
        draw = torch.Generator().manual_seed(100 + self.seed)
        self.texts = {name: torch.randn(1, 8, generator=draw) for name in BOTH}

    def call(self, name: str) -> None:
        with torch.no_grad(), self.model.cache_context(name):
            output = self.model(self.samples[self.step], self.times[self.step], self.texts[name])
        self.outputs[name].append(output)

    def run(self) -> Request:
        for self.step in range(STEPS):
            for name in self.names:
                if name == "cond" or self.step >= self.start:
                    self.call(name)
        return self

    def hits(self, name: str) -> tuple[bool, ...]:
        return self.model.stats()[name].hits


def transformed(
    config: CacheConfig, follow: dict[str, str] | None = None, **options: Any
) -> CachedTransformer:
    return fxcache.transform(guided(), config.replace(follow=follow or {}), **options)


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def replayed(request: Request, config: CacheConfig, hits: Sequence[bool], name: str) -> list[Tensor]:
    """What the context must return, by a loop over the blocks with given decisions and no front."""
    model, loop = guided(), ReferenceLoop(guided(), config)
    end, outputs = len(model.blocks) - config.bn_compute_blocks, []
    for step, hit in enumerate(hits):
        entry = x = model.embed(request.samples[step])
        temb = model.conditioning(request.times[step], request.texts[name])
        if hit:
            x = x + loop._forecast()
        else:
            for block in model.blocks[:end]:
                x = block(x, temb)
            loop._remember(x - entry, x)
        for block in model.blocks[end:]:
            x = block(x, temb)
        outputs.append(model.head(x))
        loop.step += 1
    return outputs


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IdleCacheWarning)
        yield
    torch._dynamo.reset()


# ------------------------------------------------------------------ decisions and outputs


@pytest.mark.parametrize("examples", sweep((8, 60), (8,)))
def test_it_hits_where_its_leader_does_and_replays_its_own_history(examples: int) -> None:
    settings(max_examples=examples, deadline=None)(given(config=configs())(_hits_and_replays))()


def _hits_and_replays(config: CacheConfig) -> None:
    request, alone = Request(transformed(config, FOLLOW)).run(), Request(transformed(config)).run()
    assert request.hits("uncond") == request.hits("cond") == alone.hits("cond")
    assert same(request.outputs["cond"], alone.outputs["cond"])
    wanted = replayed(request, config, request.hits("cond"), "uncond")
    for found, expected in zip(request.outputs["uncond"], wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_contexts_do_decide_apart_without_it() -> None:
    request = Request(transformed(DECIDED)).run()
    assert request.hits("cond") != request.hits("uncond")


def test_with_nothing_cached_it_is_the_model() -> None:
    request = Request(transformed(DECIDED.replace(residual_diff_threshold=0.0), FOLLOW)).run()
    for step, output in enumerate(request.outputs["uncond"]):
        given = (request.samples[step], request.times[step], request.texts["uncond"])
        assert torch.equal(output, request.model.original(*given))
    assert request.model.stats().cached == 0


def test_computed_steps_between_hits_are_the_models() -> None:
    request = Request(transformed(DECIDED, FOLLOW)).run()
    assert 0 < sum(request.hits("uncond")) < STEPS - 2
    for step, (hit, output) in enumerate(zip(request.hits("uncond"), request.outputs["uncond"], strict=True)):
        given = (request.samples[step], request.times[step], request.texts["uncond"])
        plain = request.model.original(*given)
        assert torch.allclose(output, plain, rtol=1e-5, atol=1e-5) is not hit


@pytest.mark.parametrize("names", [("cond", "uncond", "third"), ("third", "cond", "uncond")])
def test_several_follow_one(names: tuple[str, ...]) -> None:
    cached = transformed(DECIDED, {"uncond": "cond", "third": "cond"})
    request = Request(cached, names=names)
    request.texts["third"] = request.texts["uncond"].flip(-1)
    request.outputs["third"] = []
    request.run()
    assert any(request.hits("cond")) and request.hits("uncond") == request.hits("cond")
    called_first = names[0] == "third"
    assert request.hits("third") == ((False,) * STEPS if called_first else request.hits("cond"))
    assert len(cached._following.all()) == 1  # type: ignore[union-attr]  # one graph serves them


def test_names_are_the_users_and_the_unnamed_context_has_one() -> None:
    cached = transformed(DECIDED, {"b": "default"})
    request = Request(cached)
    with torch.no_grad():
        for sample, time in zip(request.samples, request.times, strict=True):
            cached(sample, time, request.texts["cond"])
            with cached.cache_context("b"):
                cached(sample, time, request.texts["uncond"])
    assert any(request.hits("default")) and request.hits("b") == request.hits("default")


# ------------------------------------------------------------------ whenever the leader did not just run it


def test_called_before_its_leader_it_computes() -> None:
    request = Request(transformed(REPLAYED, FOLLOW), names=("uncond", "cond")).run()
    assert not any(request.hits("uncond")) and sum(request.hits("cond")) == STEPS - 1


def test_without_its_leader_it_computes() -> None:
    request = Request(transformed(REPLAYED, FOLLOW), names=("uncond",)).run()
    assert not any(request.hits("uncond"))


def test_that_nothing_was_followed_is_said() -> None:
    request = Request(transformed(REPLAYED, FOLLOW), names=("uncond", "cond")).run()
    with pytest.warns(IdleCacheWarning, match="follows 'cond'.* called first"):
        request.model.stats()


@pytest.mark.parametrize("ended", [False, True], ids=["run broken off", "run ended"])
def test_a_run_without_its_leader_does_not_follow_the_last_one(ended: bool) -> None:
    """Also at the step with the number, the time and the sample at which the leader stopped."""
    first = Request(transformed(REPLAYED, FOLLOW)).run()
    if ended:
        first.model._reset_stateful_cache()
    second = Request(first.model, seed=1, names=("uncond",)).run()
    assert not any(second.hits("uncond"))


def test_called_later_than_its_leader_it_computes_once_and_then_follows() -> None:
    request = Request(transformed(REPLAYED, FOLLOW), start=5).run()
    assert request.hits("cond") == (False,) + (True,) * (STEPS - 1)
    assert request.hits("uncond") == (False,) + (True,) * (STEPS - 6)


def test_a_leader_that_began_anew_is_not_followed_before_it_is_there_again() -> None:
    cached = transformed(REPLAYED, FOLLOW)
    request, other = Request(cached), Request(cached, seed=1)
    for request.step in range(6):
        request.call("cond")
        request.call("uncond")
    for other.step in range(3):  # another run in the leader's place, at its third step in a hit
        other.call("cond")
    request.step = 6
    request.call("uncond")
    assert cached.stats()["uncond"].hits == (False, True, True, True, True, True, False)


@pytest.mark.parametrize("changed", ["time", "sample", "size"])
def test_another_step_of_the_leader_is_not_followed(changed: str) -> None:
    cached, request = transformed(REPLAYED, FOLLOW), Request(transformed(REPLAYED))
    sample, text = request.samples[0], request.texts
    for step, time in enumerate(request.times[:4]):
        last = step == 3
        other = sample + 1e-6 if last and changed == "sample" else sample
        other = other[:, :3] if changed == "size" else other
        with torch.no_grad():
            with cached.cache_context("cond"):
                cached(sample, time, text["cond"])
            with cached.cache_context("uncond"):
                cached(other, time - 1 if last and changed == "time" else time, text["uncond"])
    hits = cached.stats()["uncond"].hits
    assert hits == ((False,) * 4 if changed == "size" else (False, True, True, False))
    assert cached.stats()["cond"].hits == (False, True, True, True)


ORDERS = {
    "in turn": ("a.cond", "a.uncond", "b.cond", "b.uncond"),
    "leaders first": ("a.cond", "b.cond", "a.uncond", "b.uncond"),
    "nested": ("a.cond", "b.cond", "b.uncond", "a.uncond"),
}


@pytest.mark.parametrize("order", ORDERS)
def test_interleaved_requests_follow_their_own(order: str) -> None:
    alone = {seed: Request(transformed(DECIDED, FOLLOW), seed).run() for seed in (0, 1)}
    assert alone[0].hits("cond") != alone[1].hits("cond")
    cached = transformed(DECIDED, FOLLOW)
    requests = {"a": Request(cached, 0), "b": Request(cached, 1)}
    for step in range(STEPS):
        for call in ORDERS[order]:
            who, name = call.split(".")
            requests[who].step = step
            requests[who].call(name)
    for seed, request in enumerate(requests.values()):
        for name in BOTH:
            assert same(request.outputs[name], alone[seed].outputs[name])


def test_a_leader_of_another_thread_is_not_followed() -> None:
    request = Request(transformed(REPLAYED, FOLLOW))
    with ThreadPoolExecutor(1) as other:
        for request.step in range(STEPS):
            other.submit(request.call, "cond").result()
            request.call("uncond")
        stats = request.model.stats()
    assert sum(stats["cond"].hits) == STEPS - 1 and not any(stats["uncond"].hits)


def test_requests_in_threads_follow_their_own() -> None:
    alone = {seed: Request(transformed(DECIDED, FOLLOW), seed).run() for seed in (0, 1)}
    cached = transformed(DECIDED, FOLLOW)
    Request(cached, 2).run()  # captured
    with ThreadPoolExecutor(2) as threads:
        requests = list(threads.map(lambda seed: Request(cached, seed).run(), (0, 1)))
    for seed, request in enumerate(requests):
        assert all(same(request.outputs[n], alone[seed].outputs[n]) for n in BOTH)


def test_a_failed_step_of_the_leader_is_not_followed() -> None:
    cached = transformed(REPLAYED, FOLLOW)
    request = Request(cached)
    for request.step in range(4):
        request.call("cond")
        request.call("uncond")
    graph = cached.specializations()[0]
    run, graph.run = graph.run, _fail
    request.step = 4
    with pytest.raises(RuntimeError, match="out of memory"):
        request.call("cond")
    graph.run = run
    request.call("uncond")
    assert request.hits("uncond") == (False, True, True, True, False)


def _fail(*_: Tensor) -> tuple[Any, ...]:
    raise RuntimeError("out of memory")


# ------------------------------------------------------------------ what else a context may be


def test_in_inference_mode_as_without_gradients() -> None:
    wanted = Request(transformed(DECIDED, FOLLOW)).run()
    with torch.inference_mode():
        request = Request(transformed(DECIDED, FOLLOW)).run()
    assert all(same(request.outputs[n], wanted.outputs[n]) for n in BOTH)


def test_limits_at_the_end_of_a_run_are_the_leaders() -> None:
    config = CacheConfig(
        fn_compute_blocks=0, max_warmup_steps=1, policy=FixedInterval(100), last_compute_steps=2
    )
    cached = transformed(config, FOLLOW)
    request = Request(cached)
    with torch.no_grad():
        for step in range(STEPS):
            for name in BOTH:
                with cached.cache_context(name, step_index=step, num_inference_steps=STEPS):
                    cached(request.samples[step], request.times[step], request.texts[name])
    wanted = (False, *(True,) * (STEPS - 3), False, False)
    assert request.hits("cond") == request.hits("uncond") == wanted


def test_settings_of_one_request_hold_for_both() -> None:
    cached = transformed(DECIDED, FOLLOW)
    with cached.cache_context(
        "request", config=cached.cache_config.replace(max_warmup_steps=7, residual_diff_threshold=1000.0)
    ):
        request = Request(cached).run()
    wanted = (*(False,) * 7, True, True, True, False, True)
    assert request.hits("uncond") == request.hits("cond") == wanted


def test_configure_lets_contexts_follow_and_decide_again() -> None:
    cached, apart = transformed(DECIDED), Request(transformed(DECIDED)).run()
    cached.configure(follow=FOLLOW)
    follows = Request(cached).run()
    assert follows.hits("uncond") == follows.hits("cond") != apart.hits("uncond")
    cached.configure(follow={})
    again = Request(cached).run()
    assert all(same(again.outputs[n], apart.outputs[n]) for n in BOTH)
    cached.configure(follow=FOLLOW, residual_diff_threshold=1000.0, max_continuous_cached_steps=None)
    assert sum(Request(cached).run().hits("uncond")) == STEPS - 2


def test_switched_off_both_run_the_model() -> None:
    cached = transformed(DECIDED, FOLLOW)
    cached.configure(enabled=False)
    request = Request(cached).run()
    given = (request.samples[-1], request.times[-1], request.texts["uncond"])
    assert torch.equal(request.outputs["uncond"][-1], cached.original(*given))
    cached.configure(DECIDED.replace(follow=FOLLOW))
    request = Request(cached).run()
    assert any(request.hits("uncond")) and request.hits("uncond") == request.hits("cond")


def test_the_graph_of_followers_is_prepared_within_their_context() -> None:
    cached = transformed(DECIDED, FOLLOW)
    request = Request(cached)
    inputs = {
        "hidden_states": request.samples[0],
        "timestep": request.times[0],
        "text": request.texts["cond"],
    }
    cached.prepare(inputs)
    with cached.cache_context("uncond"):
        cached.prepare(inputs)
    leader, follower = prepared = cached.specializations()
    assert [leader.program.config.fn_compute_blocks, follower.program.config.fn_compute_blocks] == [1, 0]
    request.run()
    assert cached.specializations() == prepared


def test_a_copy_follows_its_own() -> None:
    cached = transformed(DECIDED, FOLLOW)
    wanted = Request(cached).run()
    request = Request(copy.deepcopy(cached)).run()
    assert all(same(request.outputs[n], wanted.outputs[n]) for n in BOTH)


def test_a_model_without_a_timestep_is_known_by_its_sample() -> None:
    layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
    model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
    cached = fxcache.transform(model, REPLAYED)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", fxcache.errors.TrajectoryWarning)
        for sample in latents(5, 0):
            for name in BOTH:
                with cached.cache_context(name):
                    cached(sample)
    assert cached.stats()["cond"].hits == cached.stats()["uncond"].hits == (False, *(True,) * 4)


class Blind(nn.Module):
    """Nothing is denoised: it is given a time only."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3))

    def forward(self, timestep: Tensor) -> Tensor:
        x = timestep.reshape(-1, 1).expand(-1, 8)
        for block in self.blocks:
            x = block(x)
        return x


def test_a_model_with_nothing_to_denoise_is_refused() -> None:
    cached = fxcache.transform(Blind().eval(), REPLAYED)
    with (
        torch.no_grad(),
        cached.cache_context("uncond"),
        pytest.raises(ConfigError, match="leave `follow` out"),
    ):
        cached(torch.tensor([0.5]))


def test_every_segment_follows_its_own() -> None:
    model, inputs = find("FluxTransformer2DModel").build()
    config = CacheConfig(fn_compute_blocks=1, max_warmup_steps=2, residual_diff_threshold=0.26, follow=FOLLOW)
    cached = fxcache.transform(model, config, scope="list")
    draw = torch.Generator().manual_seed(0)
    drift = torch.randn(inputs["hidden_states"].shape, generator=draw)
    other = torch.randn(inputs["encoder_hidden_states"].shape, generator=draw)
    with torch.no_grad():
        for step in range(STEPS):
            moved = {
                "hidden_states": inputs["hidden_states"] + 0.1 * step**1.5 * drift,
                "timestep": inputs["timestep"] * (1 - step / STEPS),
            }
            for name in BOTH:
                text = {"encoder_hidden_states": other} if name == "uncond" else {}
                with cached.cache_context(name):
                    cached(**{**inputs, **moved, **text})
    leader, follower = (cached.stats()[name].segments for name in BOTH)
    assert leader[0].hits != leader[1].hits and all(any(s.hits) for s in leader)
    assert [s.hits for s in follower] == [s.hits for s in leader]


# ------------------------------------------------------------------ what it costs


def test_a_hit_at_the_output_runs_nothing() -> None:
    config = CacheConfig(
        fn_compute_blocks=1, level="output", max_warmup_steps=2, residual_diff_threshold=1000.0
    )
    request = Request(transformed(config, FOLLOW)).run()
    stats = request.model.stats()
    leader, follower = (stats[name] for name in BOTH)
    step = (follower.flops_done + follower.flops_saved) / STEPS  # type: ignore[operator]
    assert follower.flops_done == 2 * step  # the computed ones
    assert leader.flops_done > follower.flops_done  # type: ignore[operator]  # its front runs in every step


def test_the_report_says_whom_it_follows() -> None:
    request = Request(transformed(DECIDED, FOLLOW)).run()
    stats = request.model.stats()
    assert (stats["cond"].follows, stats["uncond"].follows) == (None, "cond")
    assert not stats["uncond"].residual_diffs and stats["cond"].residual_diffs
    assert str(stats).endswith("uncond: follows cond")
    inputs = {
        "hidden_states": request.samples[0],
        "timestep": request.times[0],
        "text": request.texts["cond"],
    }
    found = fxcache.explain(guided(), request.model.cache_config, inputs)
    assert "  context         uncond follows cond" in str(found).splitlines()


GUIDED = {c.name: c for c in CASES if c.name in ("FluxPipeline", "QwenImagePipeline", "WanPipeline")}


@pytest.mark.parametrize("name", sweep(GUIDED, ("QwenImagePipeline",)))
def test_a_pipeline_with_guidance(name: str) -> None:
    case = GUIDED[name]
    config = CacheConfig(
        fn_compute_blocks=1, max_warmup_steps=2, residual_diff_threshold=0.3, max_continuous_cached_steps=2
    )
    pipe, follows = case.load(), config.replace(follow=FOLLOW)
    fxcache.transform(pipe, follows)
    case.run(pipe, num_inference_steps=STEPS)
    for name in case.denoisers:
        cached = getattr(pipe, name)
        stats = cached.stats()
        assert stats["uncond"].hits == stats["cond"].hits and any(stats["cond"].hits)
        assert stats["uncond"].flops_done < stats["cond"].flops_done
        assert stats["uncond"].follows == "cond"


def test_a_pipeline_with_nothing_cached_is_the_plain_one() -> None:
    pipe = FLUX.load()
    plain = FLUX.run(pipe)
    fxcache.transform(pipe, CacheConfig(fn_compute_blocks=1, residual_diff_threshold=0.0, follow=FOLLOW))
    assert torch.equal(FLUX.run(pipe), plain)


def test_pictures_of_one_pipeline_do_not_follow_the_last_ones() -> None:
    pipe = fxcache.transform(FLUX.load(), REPLAYED)
    first, second, again = (FLUX.run(pipe, seed) for seed in (0, 1, 0))
    assert torch.equal(first, again) and not torch.equal(first, second)


# ------------------------------------------------------------------ compiled and packaged


MODES = (("fused", "middle"), ("fused", "output"), ("single", "middle"), ("staged", "middle"))


@pytest.mark.parametrize(("mode", "level"), sweep(MODES, (("single", "middle"),)))
def test_compiled_as_eager(mode: str, level: str) -> None:
    config = DECIDED.replace(level=level, forecaster=TaylorSeer(order=1))
    eager = Request(transformed(config, FOLLOW)).run()
    compiled = Request(fxcache.compile(eager.model, mode=mode)).run()
    for name in BOTH:
        assert compiled.hits(name) == eager.hits(name) and any(eager.hits(name))
        for one, other in zip(compiled.outputs[name], eager.outputs[name], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def exported(request: Request, folder: Path) -> Path:
    inputs = {
        "hidden_states": request.samples[0],
        "timestep": request.times[0],
        "text": request.texts["cond"],
    }
    return fxcache.export(request.model, folder / "toy.pt2", inputs)


def test_a_package_holds_one_graph(tmp_path: Path) -> None:
    request = Request(transformed(DECIDED, FOLLOW))
    with pytest.raises(ExportError, match=re.escape("cached.configure(follow={})")):
        exported(request, tmp_path)


@pytest.mark.full
def test_a_package_is_told_to_follow_nothing(tmp_path: Path) -> None:
    request = Request(transformed(DECIDED, FOLLOW))
    request.model.configure(follow={})
    package = fxcache.load(exported(request, tmp_path))
    with pytest.raises(GraphSettingError, match="follow"):
        package.configure(follow=FOLLOW)
    with pytest.raises(GraphSettingError, match="follow"):
        package.cache_context("cond", config=DECIDED.replace(follow=FOLLOW))


# ------------------------------------------------------------------ the config


def test_it_is_read_as_it_is_written() -> None:
    config = DECIDED.replace(follow={"uncond": "cond", "a": "cond"}, policy=fxcache.Budget())
    assert config.follow == (("a", "cond"), ("uncond", "cond"))
    assert str(config) == 'F1B0_W2M0MC3_T0O1_R0.15_D{"name":"budget"}_U{"a":"cond","uncond":"cond"}'
    assert CacheConfig.from_string(str(config)) == config
    assert config.to_dict()["follow"] == {"uncond": "cond", "a": "cond"}
    assert CacheConfig.from_dict(config.to_dict()) == config
    assert CacheConfig.from_yaml(yaml.safe_dump(config.to_dict()) + "\n") == config
    assert CacheConfig.from_yaml("fn_compute_blocks: 1\nfollow: {uncond: cond}").followed == (
        ("uncond", "cond"),
    )
    assert hash(config) == hash(config.replace(follow=config.follow))
    assert "follow=(('a', 'cond'), ('uncond', 'cond'))" in repr(config)
    assert config.for_context("a") is config.for_context("a")  # compared at every call


@pytest.mark.parametrize(
    ("follow", "need"),
    [
        ({"cond": "cond"}, "follow itself"),
        ({"a": "b", "b": "c"}, "let 'a' follow 'c'"),
        ({"a": "b", "b": "a"}, "one of them must decide"),
        ("cond", "by their names"),
        (1, "by their names"),
        (["uncond"], "by their names"),
        ({"uncond": 1}, "by their names"),
        ({"uncond": ""}, "by their names"),
        ({"uncond": ["cond", "other"]}, "by their names"),
        ((("uncond", "a"), ("uncond", "b")), "one leader"),
    ],
)
def test_what_cannot_be_followed_is_refused(follow: Any, need: str) -> None:
    with pytest.raises(ConfigError, match=need) as error:
        CacheConfig(follow=follow)
    assert error.value.field == "follow"


def test_plans_are_followed_by_all_contexts_anyway() -> None:
    config = CacheConfig.from_plans(fxcache.plan(steps=28, speedup=2))
    with pytest.raises(ConfigError, match="all contexts do alike"):
        config.replace(follow=FOLLOW)


def test_notation_that_names_no_contexts_is_refused() -> None:
    with pytest.raises(NotationError):
        CacheConfig.from_string('F1B0_W2M0MC3_T0O1_R0.15_U{"uncond":}')


REFUSED: dict[str, Callable[[], object]] = {
    "a model": lambda: fxcache.transform(guided(), CacheConfig(fn_compute_blocks=0, policy=Follow("cond"))),
    "no name": lambda: Follow(""),
    "by name": lambda: CacheConfig.from_dict({"policy": {"name": "follow", "leader": "cond"}}),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_policy_is_for_contexts_only(what: str) -> None:
    with pytest.raises(ConfigError, match="policy"):
        REFUSED[what]()
