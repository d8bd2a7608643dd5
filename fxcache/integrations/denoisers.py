"""The denoisers of an engine's pipeline, each with a cached one in its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import fxcache
from fxcache.errors import GraphSettingError, NoDenoiserError, PlanError

from .settings import Settings

ANY = 28  # steps of a plan that is there before the first run says how many it has


@dataclass
class Denoisers:
    """The models in `names`, attributes of `pipeline` (`a.b` of its `a`). options: of `fxcache.transform`.

    Example:
        >>> from fxcache.embedded import load_pipeline
        >>> from fxcache.integrations.denoisers import Denoisers
        >>> from fxcache.integrations.settings import Settings
        >>> pipe = load_pipeline()
        >>> denoisers = Denoisers(pipe, ["transformer", "transformer_2"], Settings(speedup=2.0))
        >>> denoisers.cache()
        >>> denoisers.begin(8)
        >>> pipe.transformer
        CachedTransformer(FluxTransformer2DModel, P8K4)
        >>> denoisers.restore()
        >>> type(pipe.transformer).__name__
        'FluxTransformer2DModel'
    """

    pipeline: Any
    names: Iterable[str]
    settings: Settings
    options: Mapping[str, Any] = field(default_factory=dict)
    cached: dict[str, fxcache.CachedTransformer] = field(default_factory=dict)

    def cache(self) -> None:
        """Put a cached model in the place of each that there is.

        Raises:
            NoDenoiserError: there is none. And what `fxcache.transform` does; then none is replaced.
        """
        found = {name: _get(self.pipeline, name) for name in self.names}
        made = {name: self._transform(model, ANY) for name, model in found.items() if model is not None}
        if not made:
            raise NoDenoiserError(type(self.pipeline).__name__, tuple(self.names))
        for name, model in made.items():
            self._put(name, model)

    def begin(self, steps: int | Mapping[str, int], settings: Settings | None = None) -> None:
        """A run begins: nothing is remembered of the last one, and its settings hold. No graph is captured
        anew, unless these need another."""
        self.settings = settings or self.settings
        for name, cached in list(self.cached.items()):
            own = steps if isinstance(steps, int) else steps[name]
            cached.reset()
            try:
                cached.configure(self.settings.of_run(own))
            except (GraphSettingError, PlanError):
                self._put(name, self._transform(cached.original, own))

    def restore(self) -> None:
        """Put the models back. What was put in the place of a cached one meanwhile stays."""
        for name, cached in self.cached.items():
            if _get(self.pipeline, name) is cached:
                _set(self.pipeline, name, cached.original)
        self.cached = {}

    def _transform(self, model: Any, steps: int) -> fxcache.CachedTransformer:
        return fxcache.transform(model, self.settings.of_run(steps), **self.options)

    def _put(self, name: str, cached: fxcache.CachedTransformer) -> None:
        self.cached[name] = cached
        _set(self.pipeline, name, cached)


def _get(pipeline: Any, name: str) -> Any:
    try:
        return attrgetter(name)(pipeline)
    except AttributeError:
        return None


def _set(pipeline: Any, name: str, value: object) -> None:
    owner, _, last = name.rpartition(".")
    setattr(attrgetter(owner)(pipeline) if owner else pipeline, last, value)
