"""The numbers of a cache setting, found on runs: what its policy is fitted to, and the threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from ..backends.lowering import lowering
from ..capture.root_hooks import FORWARD
from ..config import CacheConfig
from ..errors import CalibrationError
from ..policies.base import Seen
from ..runtime.cached_transformer import CachedTransformer
from ..runtime.stats import ContextStats
from ..runtime.stats import speedup as speedup_of
from .noise import Noise
from .progress import Progress
from .sampler import Sampler
from .watch import Watch, What

TRIALS = 3  # runs that a threshold is tried on
HALVINGS = 10  # of where the threshold may be
LEAST, MOST = 1e-4, 1e2
NEAR = 0.99  # of the speedup: what is near enough
Settings = CacheConfig | dict[str, CacheConfig]


def cost(config: CacheConfig, runs: int) -> int:
    """Samplings of one run that it takes at most to find the settings.

    Example:
        >>> from fxcache import CacheConfig
        >>> from fxcache.calibration.settings import cost
        >>> cost(CacheConfig(), runs=8)
        36
    """
    return runs * len(config.policy.fitted_to) + min(runs, TRIALS) * (HALVINGS + 2)


def fitted_settings(found: Sampler, config: CacheConfig, speedup: float, progress: Progress) -> Settings:
    """`config` with its policy fitted to what the denoisers do, and the threshold of a speedup.

    The same for all denoisers but for what a policy is fitted to.

    Raises:
        CalibrationError: its limits do not allow that speedup.

    Example:
        >>> from fxcache import CacheConfig, MagCache
        >>> from fxcache.calibration.progress import Progress
        >>> from fxcache.calibration.sampler import sampler
        >>> from fxcache.calibration.settings import fitted_settings
        >>> from fxcache.embedded import load_pipeline, load_transformer, sample
        >>> def run(model, i):
        ...     return sample(load_pipeline(model), [i], seeds=[i], num_inference_steps=6)
        >>> config = CacheConfig(fn_compute_blocks=0, max_warmup_steps=1, policy=MagCache(ratios=[1.0]))
        >>> quiet = Progress(lambda *told: None, total=9)
        >>> found = fitted_settings(sampler(load_transformer(), None, run, 2), config, 1.5, quiet)
        >>> len(found.policy.ratios)
        6
    """
    for options in found.options.values():
        if options.get("method", FORWARD) != FORWARD:
            raise CalibrationError(
                f"thresholds are found for models entered by their forward, not {options['method']}()",
                "Leave out config=: a plan is fitted there, too.",
            )
    trials = _Trials(found)
    configs = {name: trials.fitted(name, config, progress) for name in found.denoisers}
    threshold = _threshold(trials, configs, speedup, progress)
    settings = {name: c.replace(residual_diff_threshold=threshold) for name, c in configs.items()}
    return settings if len(settings) > 1 else next(iter(settings.values()))


class _Trials:
    """Does runs with caches in the denoisers' places."""

    def __init__(self, found: Sampler) -> None:
        self._sampler, self._noise = found, Noise(found.generators)

    def fitted(self, name: str, config: CacheConfig, progress: Progress) -> CacheConfig:
        """`config` with its policy fitted to what one denoiser does in all runs."""
        policy = config.policy
        if not policy.fitted_to:
            return config
        seen: dict[str, list[list[float]]] = {}
        for what in policy.fitted_to:
            progress.say(f"plain runs: {what} of {name}")
            seen[what] = self._watched(name, config, what, progress)
        return config.replace(policy=policy.fitted(Seen(**seen)))

    def _watched(
        self, name: str, config: CacheConfig, what: What | str, progress: Progress
    ) -> list[list[float]]:
        """For each context of each run, a number for every step after the first."""
        if what == "signal":  # its own, as it is
            policy, ahead = config.policy.plain(), 0
        else:
            policy, ahead = Watch(what), 1  # type: ignore[arg-type]
        watching = CacheConfig(  # every step is looked at, and computed
            fn_compute_blocks=config.fn_compute_blocks,
            bn_compute_blocks=config.bn_compute_blocks,
            level=config.level,
            policy=policy,
            max_warmup_steps=0,
            residual_diff_threshold=0.0,
        )
        (cached,) = self.cached({name: watching}).values()
        found = []
        for run in range(self._sampler.runs):
            for context in self.draw(run, {name: cached})[0]:
                diffs = [context.residual_diffs.get(step, math.nan) for step in range(context.steps)]
                found.append(diffs[1 + ahead :])
            progress.add(1)
        return found

    def cached(self, configs: Mapping[str, CacheConfig]) -> dict[str, CachedTransformer]:
        """The denoisers with these settings."""
        models, options = self._sampler.denoisers, self._sampler.options
        return {
            n: CachedTransformer(models[n], c, choose_lowering=lowering, **options[n])
            for n, c in configs.items()
        }

    @property
    def runs(self) -> int:
        """How many there are."""
        return self._sampler.runs

    def draw(self, run: int, cached: Mapping[str, CachedTransformer]) -> tuple[list[ContextStats], int]:
        """Do a run; what was cached in it, and how often a denoiser was called."""
        calls = []
        hooks = [m.register_forward_pre_hook(lambda *_: calls.append(1)) for m in cached.values()]
        for model in cached.values():
            model.reset()
        if run < len(self._noise.states):
            self._noise.rewind(run)
        try:
            with torch.no_grad():
                self._sampler.draw(run, {**self._sampler.denoisers, **cached})
            if run == len(self._noise.states) - 1:
                self._noise.done()
        finally:
            self._noise.restore()
            for hook in hooks:
                hook.remove()
        return [c for model in cached.values() for c in model.stats().contexts.values()], len(calls)


def _threshold(
    trials: _Trials, configs: Mapping[str, CacheConfig], speedup: float, progress: Progress
) -> float:
    """The least threshold, nearly, that saves enough."""
    cached = trials.cached(configs)
    runs = min(trials.runs, TRIALS)

    def reached(threshold: float) -> float | None:
        """Times fewer FLOPs; None where a run went astray, so that the cache took it for several."""
        progress.say(f"threshold {threshold:g}")
        seen: list[ContextStats] = []
        whole = True
        for model in cached.values():
            model.configure(residual_diff_threshold=threshold)
        for run in range(runs):
            found, calls = trials.draw(run, cached)
            whole = whole and sum(context.steps for context in found) == calls
            seen += found
            progress.add(1)
        return speedup_of(seen) if whole else None

    most = reached(MOST)
    if most is not None and most < NEAR * speedup:
        raise CalibrationError(
            f"no threshold makes {next(iter(configs.values()))} {speedup:g} times faster: {most:.2f} is all "
            "that its limits allow",
            "Raise max_cached_steps or max_continuous_cached_steps, or lower max_warmup_steps.",
        )
    best = None if most is None else MOST
    low, high = math.log10(LEAST), math.log10(MOST)
    for _ in range(HALVINGS):
        middle = float(f"{10 ** ((low + high) / 2):.4g}")
        now = reached(middle)
        if now is not None and now < NEAR * speedup:
            low = math.log10(middle)
            continue
        high = math.log10(middle)
        best = middle if now is not None else best
    if best is None or math.log10(best) > high:  # what is faster goes astray
        raise CalibrationError(
            f"at {speedup:g} times the speed the runs of {next(iter(configs.values()))} go astray",
            "Ask for less, or take another policy or forecaster.",
        )
    return best
