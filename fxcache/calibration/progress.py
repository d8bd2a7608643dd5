"""How far a calibration is, in samplings of one run."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from tqdm.auto import tqdm

BAR = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]"
OnProgress = Callable[[float, float, str], object]


class Progress:
    """Counts samplings, and tells `on_progress` of (done, total, text); without it a bar.

    Example:
        >>> from fxcache.calibration.progress import Progress
        >>> with Progress(lambda *told: print(*told), total=3) as progress:
        ...     progress.say("begins")
        ...     progress.add(1.5)
        0.0 3.0 begins
        1.5 3.0 begins
    """

    def __init__(self, on_progress: OnProgress | None, total: float) -> None:
        self._tell = on_progress
        self._done, self.total = 0.0, float(total)
        self._text = ""
        self._bar = None if on_progress else tqdm(total=self.total, desc="calibrate", bar_format=BAR)

    def say(self, text: str) -> None:
        """What is being done.

        Example:
            >>> from fxcache.calibration.progress import Progress
            >>> Progress(print, total=1).say("the plain runs")
            0.0 1.0 the plain runs
        """
        self._text = text
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        self._told()

    def add(self, samplings: float) -> None:
        """So much more is done.

        Example:
            >>> from fxcache.calibration.progress import Progress
            >>> told = []
            >>> Progress(lambda *now: told.append(now), total=1).add(0.5)
            >>> told
            [(0.5, 1.0, '')]
        """
        self._done += samplings
        if self._bar is not None:
            self._bar.update(min(samplings, self.total - self._bar.n))
        self._told()

    def _told(self) -> None:
        if self._tell is not None:
            self._tell(round(self._done, 2), round(self.total, 2), self._text)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
