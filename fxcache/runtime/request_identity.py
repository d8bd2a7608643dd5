"""The time and the sample of a call, looked at only where needed: a look waits for the device."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..capture.call_signature import Call
from ..ir.roles import Roles
from ..ops.nearness import distance
from .conditioning import version_of

SHORT = 16  # up to this many times are averaged quicker on the host


@dataclass(eq=False)
class Moment:
    """Time and sample of one call. Holds the tensors and reads them when asked."""

    times: torch.Tensor | None
    sample: torch.Tensor | None
    _versions: tuple[int | None, int | None]
    _time: float | None = None

    @staticmethod
    def of(call: Call, roles: Roles) -> Moment:
        times = None if roles.time is None else call.tensors[roles.time]
        sample = None if roles.sample is None else call.tensors[roles.sample]
        versions = (
            None if times is None else version_of(times),
            None if sample is None else version_of(sample),
        )
        return Moment(times, sample, versions)

    def time(self) -> float | None:
        """The mean time; None where there is none, or where it was overwritten before it was read."""
        if self._time is None and self.times is not None and version_of(self.times) == self._versions[0]:
            if self.times.numel() == 1:
                self._time = float(self.times.item())
            elif self.times.numel() <= SHORT:
                values = self.times.reshape(-1).tolist()
                self._time = math.fsum(values) / max(len(values), 1)
            else:
                self._time = float(self.times.mean(dtype=torch.float32).item())
        return self._time

    def distance(self, last: Moment) -> float:
        """Distance of this sample from that of `last`; infinite where it cannot be told."""
        now, before = self.sample, last.sample
        if now is None or before is None or version_of(before) != last._versions[1]:
            return math.inf
        if before.is_inference() and now.data_ptr() == before.data_ptr():  # may be overwritten since
            return math.inf
        far = float(distance(now, before).item())
        return math.inf if math.isnan(far) else far
