"""Whether what a call is conditioned on is still the same."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence

import torch

from ..ir.host_reads import equal

DIFFERENT, EQUAL, IDENTICAL = range(3)


class Kept:
    """One conditioning input as a trajectory last saw it.

    The tensor is held until it was given twice; from then on it is only watched, and when it is
    freed the trajectory is told. Tensors of inference mode tell no writes, so a copy is held and compared.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self._seen = weakref.ref(tensor)
        self._version = version_of(tensor)
        self._held: torch.Tensor | None = tensor.clone() if tensor.is_inference() else tensor
        self.proven = False

    def at_once(self, now: torch.Tensor) -> int | None:
        """IDENTICAL: the same object, unwritten. EQUAL: another with equal values. Else DIFFERENT.

        None where the values tell: `held` is to be compared with `now`, and `by_values` given the answer.
        """
        same = self._seen() is now
        if self._version is not None:
            if same:
                return IDENTICAL if now._version == self._version else DIFFERENT
            if self._held is None or self._stale():
                return DIFFERENT
        if self.proven and not same:
            return DIFFERENT
        return EQUAL if _one_memory(self.held, now) else None

    def by_values(self, now: torch.Tensor, equal: bool) -> int:
        """What `at_once` left open."""
        if not equal:
            return DIFFERENT
        return IDENTICAL if self._seen() is now else EQUAL

    @property
    def held(self) -> torch.Tensor:
        """The tensor, or a copy of it, as long as it is not proven."""
        assert self._held is not None
        return self._held

    def is_apart(self, other: Kept) -> bool:
        """Whether the two hold other values; so, too, where that cannot be told any more."""
        if self._held is None or other._held is None or self._stale() or other._stale():
            return True
        if self._held is other._held or _one_memory(self._held, other._held):
            return False
        return not torch.equal(self._held, other._held)

    def _stale(self) -> bool:
        return self._version is not None and self._held is not None and self._held._version != self._version

    def note(self, now: torch.Tensor, verdict: int, ending: Callable[[], Callable[[object], None]]) -> None:
        """Remember `now`, which compared as `verdict`; `ending()` gives what to call when it is freed."""
        if verdict == IDENTICAL:
            if not self.proven:
                self.proven = True
                self._seen = weakref.ref(now, ending())
                if self._version is not None:
                    self._held = None
        else:
            self.__init__(now)  # type: ignore[misc]


def version_of(tensor: torch.Tensor) -> int | None:
    """Counts writes to a tensor; None for one that does not count them."""
    return None if tensor.is_inference() else tensor._version


def compared(kept: Mapping[int, Kept], tensors: Sequence[torch.Tensor], until: int) -> dict[int, int]:
    """How each tensor compares with what is kept of it, by its place; up to the first that is below `until`.

    Values are looked at only where nothing else tells, and then of all tensors at once: to look at them
    waits for the device.

    Args:
        kept: by places in `tensors`.
        until: DIFFERENT compares all; EQUAL, IDENTICAL stop where a verdict is lower, which is the last then.

    Example:
        >>> import torch
        >>> from fxcache.runtime.conditioning import DIFFERENT, EQUAL, IDENTICAL, Kept, compared
        >>> prompt, image = torch.ones(2), torch.zeros(2)
        >>> kept = {0: Kept(prompt), 1: Kept(image)}
        >>> found = compared(kept, [prompt, torch.zeros(2)], until=EQUAL)
        >>> found == {0: IDENTICAL, 1: EQUAL}
        True
        >>> compared(kept, [prompt.clone(), torch.ones(2)], until=EQUAL)[1] == DIFFERENT
        True
    """
    found: dict[int, int] = {}
    asked: list[int] = []
    for i, one in kept.items():
        verdict = one.at_once(tensors[i])
        if verdict is None:
            asked.append(i)
            continue
        found[i] = verdict
        if verdict < until:
            return found
    if asked:
        answers = equal([(kept[i].held, tensors[i]) for i in asked])
        for i, answer in zip(asked, answers, strict=True):
            found[i] = kept[i].by_values(tensors[i], answer)
    return found


def _one_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Views of one unwritten memory, which need no look at the values."""
    counted = not a.is_inference() and not b.is_inference()
    return counted and a.data_ptr() == b.data_ptr() and a._version == b._version and a.stride() == b.stride()
