"""Runs keep apart with nothing wrapped, and what they held is freed."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache import CachedTransformer
from fxcache.errors import TooManyContextsError
from tests.toy import ToyBlock, latents, toy

SETTING = "F1B0_W1M0MC0_T0O1_R1000"  # from the second step on, everything replays: a mix-up shows
STEPS = 6
SCHEDULE = [1000.0 - 150 * i for i in range(STEPS)]


class Conditioned(nn.Module):
    """A toy that is told what to draw, with an extra input added between its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ToyBlock(8) for _ in range(4))
        self.head = nn.Linear(8, 8)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        text: Tensor,
        pooled: Tensor,
        control: Tensor | None = None,
    ) -> Tensor:
        temb = torch.sin(timestep).reshape(-1, 1, 1) + text.mean(dim=1, keepdim=True) + pooled[:, None]
        for block in self.blocks:
            hidden_states = block(hidden_states, temb)
            if control is not None:
                hidden_states = hidden_states + control
        return self.head(hidden_states)


def conditioned() -> Conditioned:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Conditioned().eval().requires_grad_(False)


@dataclass
class Request:
    """One sampling run, stepped by the caller: x ← x − 0.05 · model(x, t, …)."""

    model: Callable[..., Tensor]
    seed: int
    prompt: int
    recreate: bool = False
    control: float = 0.0
    schedule: list[float] = field(default_factory=lambda: list(SCHEDULE))
    outputs: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.x = latents(1, self.seed)[0]
        self.text, self.pooled = self._encode()

    def _encode(self) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(1000 + self.prompt)
        return torch.randn(1, 3, 8, generator=draw), torch.randn(1, 8, generator=draw)

    def step(self) -> None:
        time = torch.tensor([self.schedule[len(self.outputs)]])
        if self.recreate:
            self.text, self.pooled = self._encode()
        control = {"control": self.x * self.control} if self.control else {}
        with torch.no_grad():
            out = self.model(self.x, time, text=self.text, pooled=self.pooled, **control)
        self.x = self.x - 0.05 * out
        self.outputs.append(out)

    def run(self) -> list[Tensor]:
        for _ in self.schedule:
            self.step()
        return self.outputs


def alone(**request: object) -> list[Tensor]:
    """What the request returns with a cached model of its own."""
    return Request(fxcache.transform(conditioned(), SETTING), **request).run()  # type: ignore[arg-type]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def in_turn(*requests: Request) -> None:
    for _ in range(STEPS):
        for request in requests:
            request.step()


def hits(cached: CachedTransformer) -> set[str]:
    stats = cached.stats()
    return {"".join(str(int(h)) for h in c.hits) for c in stats.contexts.values()}


ONE_RUN = "0" + "1" * (STEPS - 1)


def test_the_cache_matters_here() -> None:
    plain = Request(conditioned(), seed=1, prompt=1).run()
    assert not same(alone(seed=1, prompt=1), plain)


@pytest.mark.parametrize("recreate", [False, True], ids=["objects kept", "objects made anew each step"])
@pytest.mark.parametrize("count", [2, 3])
def test_interleaved_requests_keep_apart_and_still_cache(recreate: bool, count: int) -> None:
    cached = fxcache.transform(conditioned(), SETTING)
    requests = [Request(cached, seed=i, prompt=i, recreate=recreate) for i in range(count)]
    in_turn(*requests)
    for i, request in enumerate(requests):
        assert same(request.outputs, alone(seed=i, prompt=i))
    assert hits(cached) == {ONE_RUN}
    assert len(cached.stats().contexts) == count


def test_cond_and_uncond_called_in_turn_keep_apart() -> None:
    """Guidance as a plain loop does it: one sample, two prompts, two calls a step."""

    def guided(cond: Callable[..., Tensor], uncond: Callable[..., Tensor]) -> list[Tensor]:
        texts = [Request(cond, seed=0, prompt=p)._encode() for p in (1, 2)]
        x, outputs = latents(1, 3)[0], []
        with torch.no_grad():
            for t in SCHEDULE:
                time = torch.tensor([t])
                a = cond(x, time, *texts[0])
                b = uncond(x, time, *texts[1])
                outputs.append(b + 3 * (a - b))
                x = x - 0.05 * outputs[-1]
        return outputs

    cached = fxcache.transform(conditioned(), SETTING)
    expected = guided(*(fxcache.transform(conditioned(), SETTING) for _ in range(2)))
    assert same(guided(cached, cached), expected)
    assert hits(cached) == {ONE_RUN}


def test_one_prompt_two_seeds_interleaved() -> None:
    """Nothing but the samples tells these apart."""
    cached = fxcache.transform(conditioned(), SETTING)
    first, second = Request(cached, seed=1, prompt=1), Request(cached, seed=2, prompt=1)
    second.text, second.pooled = first.text, first.pooled
    in_turn(first, second)
    assert same(first.outputs, alone(seed=1, prompt=1))
    assert same(second.outputs, alone(seed=2, prompt=1))
    assert hits(cached) == {ONE_RUN}


def test_a_second_request_joins_late() -> None:
    cached = fxcache.transform(conditioned(), SETTING)
    first, second = Request(cached, seed=1, prompt=1), Request(cached, seed=2, prompt=1)
    second.text, second.pooled = first.text, first.pooled
    for _ in range(3):
        first.step()
    for _ in range(3):
        second.step()
        first.step()
    for _ in range(3):
        second.step()
    assert same(first.outputs, alone(seed=1, prompt=1))
    assert same(second.outputs, alone(seed=2, prompt=1))


@pytest.mark.parametrize("keep", [True, False], ids=["same objects", "made anew"])
def test_a_run_that_starts_lower_takes_nothing_from_an_interrupted_one(keep: bool) -> None:
    """Image to image after an interrupted run: time goes on falling, but it is another sample."""
    cached = fxcache.transform(conditioned(), SETTING)
    interrupted = Request(cached, seed=1, prompt=1)
    for _ in range(2):
        interrupted.step()
    lower = [400.0, 250.0, 100.0]
    again = Request(cached, seed=2, prompt=1, schedule=lower)
    if keep:
        again.text, again.pooled = interrupted.text, interrupted.pooled
    assert same(again.run(), alone(seed=2, prompt=1, schedule=list(lower)))


def test_an_input_that_changes_every_step_does_not_stop_the_cache() -> None:
    cached = fxcache.transform(conditioned(), SETTING)
    request = Request(cached, seed=1, prompt=1, control=0.1)
    request.run()
    assert hits(cached) == {ONE_RUN[:-1]}  # the first change is taken for a new run
    again = Request(cached, seed=2, prompt=1, control=0.1)  # the same prompt and image: the same objects
    again.text, again.pooled = request.text, request.pooled
    again.run()
    assert cached.stats()["default"].hits == (False, *[True] * (STEPS - 2))


def test_guidance_that_sets_in_at_the_second_step_keeps_apart() -> None:
    """A changed text, all else as before: it may be the other half of guidance, not a changing input."""
    cached = fxcache.transform(conditioned(), SETTING)
    cond, uncond = Request(cached, seed=1, prompt=1), Request(cached, seed=1, prompt=2, schedule=SCHEDULE[1:])
    uncond.pooled = cond.pooled
    cond.step()
    uncond.x = cond.x
    time, x = torch.tensor([SCHEDULE[1]]), uncond.x
    uncond.step()
    assert torch.equal(uncond.outputs[0], cached.original(x, time, uncond.text, uncond.pooled))
    for _ in SCHEDULE[1:]:
        cond.step()
    assert same(cond.outputs, alone(seed=1, prompt=1))


def test_interleaved_requests_with_an_input_that_changes_every_step() -> None:
    cached = fxcache.transform(conditioned(), SETTING)
    requests = [Request(cached, seed=i, prompt=i, control=0.1 * i) for i in (1, 2)]
    in_turn(*requests)
    for i, request in zip((1, 2), requests, strict=True):
        assert same(request.outputs, alone(seed=i, prompt=i, control=0.1 * i))


def test_overwritten_conditioning_is_another_request() -> None:
    cached = fxcache.transform(conditioned(), SETTING)
    model = cached.original
    request = Request(cached, seed=1, prompt=1)
    for _ in range(3):
        request.step()
    request.text.copy_(torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(9)))
    x, time = request.x, torch.tensor([SCHEDULE[3]])
    request.step()
    assert torch.equal(request.outputs[-1], model(x, time, request.text, request.pooled))


@pytest.mark.parametrize("overwrite", [False, True])
def test_inference_mode(overwrite: bool) -> None:
    """Its tensors do not count writes, so their values are compared."""
    expected = alone(seed=1, prompt=1)
    with torch.inference_mode():
        cached = fxcache.transform(conditioned(), SETTING)
        requests = [Request(cached, seed=i, prompt=i) for i in (1, 2)]
        in_turn(*requests)
        assert same(requests[0].outputs, expected)
        assert hits(cached) == {ONE_RUN}
        if overwrite:
            again = Request(cached, seed=3, prompt=3)
            again.step()
            again.text.copy_(requests[0].text)
            x = again.x
            again.step()
            time = torch.tensor([SCHEDULE[1]])
            assert torch.equal(again.outputs[-1], cached.original(x, time, again.text, again.pooled))


def test_named_contexts_decide_alone() -> None:
    cached = fxcache.transform(conditioned(), SETTING)
    requests = {name: Request(cached, seed=i, prompt=1) for i, name in enumerate("ab")}
    requests["b"].text, requests["b"].pooled = requests["a"].text, requests["a"].pooled
    for _ in range(STEPS):
        for name, request in requests.items():
            with cached.cache_context(name):
                request.step()
    assert same(requests["a"].outputs, alone(seed=0, prompt=1))
    assert same(requests["b"].outputs, alone(seed=1, prompt=1))
    assert set(cached.stats().contexts) == {"a", "b"}


def test_requests_interleaved_under_one_name_keep_apart_by_their_prompts() -> None:
    cached = fxcache.transform(conditioned(), SETTING)
    requests = [Request(cached, seed=i, prompt=i) for i in range(2)]
    with cached.cache_context("cond"):
        in_turn(*requests)
    for i, request in enumerate(requests):
        assert same(request.outputs, alone(seed=i, prompt=i))


def test_threads_have_states_of_their_own() -> None:
    cached = fxcache.transform(conditioned(), SETTING)
    Request(cached, seed=0, prompt=0).run()  # captures
    cached.reset()
    barrier = threading.Barrier(2)

    def serve(i: int) -> list[Tensor]:
        request = Request(cached, seed=i, prompt=0)
        for _ in range(STEPS):
            barrier.wait(timeout=60)
            request.step()
        return request.outputs

    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(serve, (1, 2)))
    for i, out in zip((1, 2), outputs, strict=True):
        assert same(out, alone(seed=i, prompt=0))


def test_state_of_a_thread_is_freed_when_it_ends() -> None:
    cached = fxcache.transform(conditioned(), SETTING)
    held: list[int] = []
    served: list[Request] = []

    def serve() -> None:
        request = Request(cached, seed=1, prompt=1)
        request.run()
        served.append(request)  # keeps the conditioning: only the thread's end tells
        held.append(cached.stats().state_bytes)

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()
    gc.collect()
    assert cached.stats().state_bytes < held[0]
    assert hits(cached) == {ONE_RUN}  # the record stays


def state_bytes(cached: CachedTransformer) -> int:
    return cached.stats().state_bytes


def test_state_is_freed_when_its_conditioning_is() -> None:
    cached = fxcache.transform(conditioned(), SETTING)
    request = Request(cached, seed=1, prompt=1)
    request.run()
    before = state_bytes(cached)
    del request
    gc.collect()
    assert state_bytes(cached) < before
    assert hits(cached) == {ONE_RUN}


def test_memory_of_many_runs_is_bounded() -> None:
    cached = fxcache.transform(conditioned(), SETTING)
    kept = []
    sizes = []
    for prompt in range(12):
        request = Request(cached, seed=prompt, prompt=prompt)
        request.run()
        kept.append((request.text, request.pooled))  # nothing is freed for its conditioning's sake
        sizes.append(state_bytes(cached))
    assert max(sizes) <= 3 * sizes[0]


def test_stats_show_bytes_of_each_context() -> None:
    cached = fxcache.transform(conditioned(), SETTING)
    with cached.cache_context("cond"):
        Request(cached, seed=1, prompt=1).run()
    stats = cached.stats()
    residuals = 2 * 5 * 8 * 4  # the front residual and one factor, [1, 5, 8] float32
    assert stats["cond"].state_bytes > residuals
    assert f"{stats['cond'].state_bytes / 1024**2:.2f} MiB" in str(stats)


@contextlib.contextmanager
def every_name(cached: CachedTransformer, count: int) -> Iterator[None]:
    x, t = latents(1, 0)[0], torch.tensor([1.0])
    with torch.no_grad():
        for i in range(count):
            with cached.cache_context(str(i)):
                cached(x, t)
    yield


def test_too_many_contexts_are_refused_and_finished_ones_do_not_count() -> None:
    cached = fxcache.transform(toy(), SETTING, max_contexts=3)
    with every_name(cached, 3):
        pass
    with pytest.raises(TooManyContextsError, match="reset"), every_name(cached, 4):
        pass
    cached._reset_stateful_cache()
    x, t = latents(1, 0)[0], torch.tensor([1.0])
    for i in range(50):
        with torch.no_grad(), cached.cache_context(f"later {i}"):
            cached(x, t)
        cached._reset_stateful_cache()
    assert len(cached.stats().contexts) <= 5


# ------------------------------------------------------------------ requests that end early


class Cancelled(Exception):
    pass


@pytest.mark.parametrize("inner", ["request", "cond"])
def test_a_cancelled_request_leaves_nothing_behind(inner: str) -> None:
    cached = fxcache.transform(conditioned(), SETTING)
    other = Request(cached, seed=1, prompt=1)
    with cached.cache_context("other"):
        other.step()
    held = state_bytes(cached)
    with pytest.raises(Cancelled), cached.cache_context("request"):
        broken_off = Request(cached, seed=0, prompt=0)
        for _ in range(3):
            with cached.cache_context(inner):  # as a pipeline does around each step
                broken_off.step()
        assert state_bytes(cached) > held
        raise Cancelled
    assert state_bytes(cached) - held == cached.stats()[inner].state_bytes < held  # but for its record
    with cached.cache_context(inner):
        again = Request(cached, seed=0, prompt=0)
        for _ in range(STEPS):
            again.step()
    assert same(again.outputs, alone(seed=0, prompt=0))
    for _ in range(STEPS - 1):
        with cached.cache_context("other"):
            other.step()
    assert same(other.outputs, alone(seed=1, prompt=1))


def test_an_exception_ends_what_other_threads_called_for_the_block() -> None:
    cached = fxcache.transform(conditioned(), SETTING)
    request = Request(cached, seed=0, prompt=0)
    with ThreadPoolExecutor(1) as pool:  # whose thread does not end before the last line
        with pytest.raises(Cancelled), cached.cache_context("request"):
            pool.submit(contextvars.copy_context().run, request.step).result(timeout=60)
            held = state_bytes(cached)
            raise Cancelled
        assert state_bytes(cached) < held


def test_one_context_is_reset_among_others() -> None:
    cached = fxcache.transform(conditioned(), SETTING)
    requests = {name: Request(cached, seed=i, prompt=i) for i, name in enumerate(("first", "second"))}
    for _ in range(3):
        for name, request in requests.items():
            with cached.cache_context(name):
                request.step()
    cached.reset("first")
    assert list(cached.stats().contexts) == ["second"]
    for _ in range(STEPS - 3):
        with cached.cache_context("second"):
            requests["second"].step()
    assert same(requests["second"].outputs, alone(seed=1, prompt=1))
    cached.reset("nobody's")
