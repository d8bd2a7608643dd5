"""What a call is conditioned on: which inputs those are, and whether they are still the same."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .signature import Call
from .state import StateTensor
from .variants import Variant

DIFFERENT, EQUAL, IDENTICAL = range(3)


@dataclass(frozen=True)
class Roles:
    """The flat inputs of a variant, by what they are for.

    sample: the input that is denoised: the first that has the shape of the model's first output, else
        the first tensor. time: the input that the clock reads. conditioning: all others, without those
        that have a time's name and those that have the shape of a further output (a second sample).
    """

    sample: int | None
    time: int | None
    conditioning: tuple[int, ...]

    @staticmethod
    def of(variant: Variant, call: Call) -> Roles:
        names = variant.program.capture.inputs
        timestep = variant.program.timestep
        time = names.index(timestep) if timestep in names else None
        rest = [i for i, name in enumerate(names) if i != time and not _names_a_time(name)]
        samples: list[int] = []
        for shape in _output_shapes(variant, call):
            fits = (i for i in rest if i not in samples and tuple(call.tensors[i].shape) == shape)
            samples.extend([i for i in fits][:1])
        if not samples:
            samples = rest[:1]
        conditioning = tuple(i for i in rest if i not in samples)
        return Roles(samples[0] if samples else None, time, conditioning)


def _names_a_time(name: str) -> bool:
    return name == "t" or "time" in name or "sigma" in name


def _output_shapes(variant: Variant, call: Call) -> list[tuple[int, ...] | None]:
    captured = variant.program.capture
    outputs = captured.graph.graph.output_node().args[0][: captured.output.count]  # type: ignore[index]
    values = [n.meta.get("val") for n in outputs]  # type: ignore[union-attr]
    symbols = variant.symbols[call.key]
    return [StateTensor.like("", v).sizes(symbols) for v in values if isinstance(v, torch.Tensor)]


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
            if self._held is None or self._held._version != self._version:
                return DIFFERENT
        if self.proven and not same:
            return DIFFERENT
        if not _equal(self._held, now):  # type: ignore[arg-type]
            return DIFFERENT
        return IDENTICAL if same else EQUAL

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
