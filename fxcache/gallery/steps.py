"""Counts the steps of a pipeline, in the place of the bar that it would draw."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm


class _Steps(tqdm):  # type: ignore[type-arg]
    """A bar that draws nothing and tells of each step."""

    def __init__(self, iterable: Any, total: int | None, on_step: Callable[[], object]) -> None:
        super().__init__(iterable, total=total, disable=True)
        self._on_step = on_step

    def update(self, n: float | None = 1) -> None:
        for _ in range(int(n or 0)):
            self._on_step()

    def __iter__(self) -> Iterator[Any]:
        for item in self.iterable:
            yield item
            self._on_step()


@contextlib.contextmanager
def counting(pipe: Any, on_step: Callable[[], object]) -> Iterator[None]:
    """Within the block `pipe` tells of each of its steps, and draws no bar of its own.

    Example:
        >>> from fxcache import embedded
        >>> from fxcache.gallery.steps import counting
        >>> pipe, steps = embedded.load_pipeline(), []
        >>> with counting(pipe, lambda: steps.append(1)):
        ...     images = embedded.sample(pipe, [7], num_inference_steps=3)
        >>> len(steps), "progress_bar" in vars(pipe)
        (3, False)
    """

    def bar(iterable: Any = None, total: int | None = None) -> _Steps:
        return _Steps(iterable, total, on_step)

    pipe.progress_bar = bar  # as a user's subclass of the pipeline might have it
    try:
        yield
    finally:
        del pipe.progress_bar
