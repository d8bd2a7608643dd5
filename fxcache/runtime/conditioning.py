"""Whether what a call is conditioned on is still the same."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch

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

    def compare(self, now: torch.Tensor) -> int:
        """IDENTICAL: the same object, unwritten. EQUAL: another with equal values. Else DIFFERENT."""
        same = self._seen() is now
        if self._version is not None:
            if same:
                return IDENTICAL if now._version == self._version else DIFFERENT
            if self._held is None or self._stale():
                return DIFFERENT
        if self.proven and not same:
            return DIFFERENT
        if not _equal(self._held, now):  # type: ignore[arg-type]
            return DIFFERENT
        return IDENTICAL if same else EQUAL

    def is_apart(self, other: Kept) -> bool:
        """Whether the two hold other values; so, too, where that cannot be told any more."""
        if self._held is None or other._held is None or self._stale() or other._stale():
            return True
        return self._held is not other._held and not _equal(self._held, other._held)

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


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    # Views of one unwritten memory need no look at the values, which would wait for the device.
    counted = not a.is_inference() and not b.is_inference()
    if counted and a.data_ptr() == b.data_ptr() and a._version == b._version and a.stride() == b.stride():
        return True
    return torch.equal(a, b)
