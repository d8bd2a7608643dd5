"""What another context decided at the same step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import Policy, Signal


@dataclass(frozen=True)
class Follow(Policy):
    """0 where the same step of the context `leader` was a hit, infinite otherwise; nothing is measured.

    It is the policy of the contexts that `CacheConfig.follow` names, and is not given to a model as a whole,
    in which nobody would be left to decide. The same step is one with the same time and bitwise the same
    sample; where the leader did not just run such a step, the follower computes.

    leader: the name of that context.

    Raises:
        ConfigError: that is no name.

    Example:
        >>> from fxcache import CacheConfig
        >>> config = CacheConfig(fn_compute_blocks=4, max_warmup_steps=6, follow={"uncond": "cond"})
        >>> config.for_context("uncond").policy
        Follow(leader='cond')
    """

    leader: str

    signal: ClassVar[Signal] = "leader"
    in_state: ClassVar[tuple[str, ...]] = ("leader",)  # the runtime looks it up: one graph serves all

    def __post_init__(self) -> None:
        named = isinstance(self.leader, str) and self.leader != ""
        self._require(named, "leader", "must be the name of a context")
