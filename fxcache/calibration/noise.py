"""Random numbers of a run are those of its first time, whenever it is done again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..devices import random_states, set_random_states


def generators(value: Any) -> Iterator[torch.Generator]:
    """Every generator in a value: among its items, its items' items, and so on; each once.

    Example:
        >>> import torch
        >>> from fxcache.calibration.noise import generators
        >>> one = torch.Generator()
        >>> list(generators([{"generator": one, "seed": [3, one]}])) == [one]
        True
    """
    seen = set[int]()

    def walk(part: Any) -> Iterator[torch.Generator]:
        if isinstance(part, torch.Generator):
            if id(part) not in seen:
                seen.add(id(part))
                yield part
        elif isinstance(part, Mapping):
            for item in part.values():
                yield from walk(item)
        elif isinstance(part, (list, tuple)):
            for item in part:
                yield from walk(item)

    return walk(value)


class Noise:
    """The states of generators, and of torch's own, at the beginning of each run.

    states: of every run that was done, and of the one to come; each a list of tensors.

    Example:
        >>> import torch
        >>> from fxcache.calibration.noise import Noise
        >>> generator = torch.Generator()
        >>> noise = Noise([generator])
        >>> first = torch.rand(3, generator=generator)
        >>> noise.done()  # run 0 is over, run 1 begins
        >>> noise.rewind(0)
        >>> torch.equal(first, torch.rand(3, generator=generator))
        True
        >>> noise.restore()
    """

    def __init__(self, found: list[torch.Generator], states: list[list[Tensor]] | None = None) -> None:
        self._generators = found
        self._at_first = self._now()
        self.states = states or [self._at_first]

    def rewind(self, run: int) -> None:
        """To where it was when `run` began."""
        self._set(self.states[run])

    def done(self) -> None:
        """A run is over for the first time: the next begins here."""
        self.states.append(self._now())

    def restore(self) -> None:
        """As it was when this object was made."""
        self._set(self._at_first)

    def _now(self) -> list[Tensor]:
        found = [torch.get_rng_state(), *(g.get_state() for g in self._generators)]
        return [*found, *random_states()]

    def _set(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        for generator, state in zip(self._generators, states[1:], strict=False):
            generator.set_state(state)
        if others := states[1 + len(self._generators) :]:
            set_random_states(others)
