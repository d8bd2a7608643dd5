"""What a context that follows another is told of that one: the live row of its clock, after its step."""

from __future__ import annotations

import torch
from torch import Tensor

from .clock import LIVE, RUN, TIMESTEP

TOLERANCE = 2.0**-16  # relative, of a timestep, of which two compiled graphs may take the mean differently


def tell(leader: Tensor, clocks: list[tuple[Tensor, Tensor]]) -> None:
    """Write the live row of the clock whose last step had the follower's sample, in place; zeros for none.

    Nothing is read on the host.

    Args:
        leader: [WIDTH], what the follower's graph reads.
        clocks: of each trajectory that may lead its clock, [4, WIDTH], and whether its last step had that
            sample, 0-dim bool; of several the first counts.

    Example:
        >>> import torch
        >>> from fxcache.ops.clock import LIVE, RUN, WIDTH
        >>> from fxcache.ops.leader import tell
        >>> leader, clock = torch.zeros(WIDTH), torch.zeros(4, WIDTH)
        >>> clock[LIVE, RUN] = 3
        >>> tell(leader, [(clock, torch.tensor(True))])
        >>> here = leader[RUN].item()
        >>> tell(leader, [(clock, torch.tensor(False))])
        >>> here, leader[RUN].item()
        (3.0, 0.0)
    """
    row = torch.zeros_like(leader)
    for clock, same in reversed(clocks):
        row = torch.where(same.to(leader.device), clock[LIVE].to(leader), row)
    leader.copy_(row)


def leaders_change(now: Tensor, leader: Tensor) -> Tensor:
    """0 where the leader's last step was at this time and a hit, infinite otherwise: 0-dim float32.

    Args:
        now: [WIDTH], the clock's live row at the beginning of the step.
        leader: [WIDTH], that of the leader's clock after its last step.

    Example:
        >>> import torch
        >>> from fxcache.ops.clock import RUN, TIMESTEP, WIDTH
        >>> from fxcache.ops.leader import leaders_change
        >>> now, leader = torch.zeros(WIDTH), torch.zeros(WIDTH)
        >>> now[TIMESTEP] = leader[TIMESTEP] = 500.0
        >>> leader[RUN] = 2  # two hits in a row, this step the second
        >>> hit = leaders_change(now, leader)
        >>> now[TIMESTEP] = 400.0
        >>> hit, leaders_change(now, leader)
        (tensor(0.), tensor(inf))
    """
    time = now[TIMESTEP]
    here = (leader[TIMESTEP] - time).abs() <= TOLERANCE * time.abs()
    return torch.where(here & (leader[RUN] > 0), 0.0, float("inf")).to(torch.float32)
