"""Contexts that follow another: before each of their steps they are told what that one did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..config import CacheConfig
from ..ir.keys import LEADER, StateKey
from ..ops.leader import tell
from ..policies import Follow

State = Mapping[str, torch.Tensor]


def leader_of(config: CacheConfig) -> str | None:
    """The context that one with these settings follows; None where it decides by itself.

    Example:
        >>> from fxcache import CacheConfig
        >>> from fxcache.runtime.following import leader_of
        >>> config = CacheConfig(follow={"uncond": "cond"})
        >>> leader_of(config.for_context("uncond")), leader_of(config.for_context("cond"))
        ('cond', None)
    """
    return config.policy.leader if isinstance(config.policy, Follow) else None


def tell_follower(state: State, sample: torch.Tensor | None, leaders: Sequence[State]) -> None:
    """Write into a follower's state what the leader did at the step that was given this sample.

    Each of its segments follows the leader's segment of the same number. Where no trajectory of the leader
    was given this very sample last, all of them compute: it was not called yet, or for another request.

    Args:
        state: that of the follower's trajectory; `leader_i` of every segment is written.
        sample: what the call is given to denoise; None where it has no such input.
        leaders: state of the trajectories of the leader, that of its last call first.

    Example:
        >>> import torch
        >>> from fxcache.ops.clock import LIVE, RUN, WIDTH
        >>> from fxcache.runtime.following import tell_follower
        >>> clock, sample, mine = torch.zeros(4, WIDTH), torch.ones(3), {"leader_0": torch.zeros(WIDTH)}
        >>> clock[LIVE, RUN] = 1
        >>> tell_follower(mine, sample, [{"clock_0": clock, "sample_0": torch.ones(3)}])
        >>> mine["leader_0"][RUN]
        tensor(1.)
    """
    last = StateKey("sample").name
    known = [
        (s, (s[last] == sample).all())
        for s in leaders
        if sample is not None and last in s and _comparable(s[last], sample)
    ]
    for name, told in state.items():
        if segment := LEADER.fullmatch(name):
            clock = StateKey("clock", int(segment[1])).name
            tell(told, [(s[clock], same) for s, same in known if clock in s])


def _comparable(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
