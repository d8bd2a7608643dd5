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
    sample. Where the leader's last step was another, the follower computes, and where it has none to replay.

    leader: the name of that context.

    Raises:
        ConfigError: that is no name.

    Example:
        >>> import fxcache
        >>> from fxcache.embedded import load_pipeline, sample
        >>> config = fxcache.CacheConfig.from_string("F4B0_W2M0MC0_T0O1_R0.4")
        >>> config = config.replace(follow={"uncond": "cond"})
        >>> config.for_context("uncond").policy
        Follow(leader='cond')
        >>> pipe = fxcache.transform(load_pipeline(), config)
        >>> images = sample(pipe, [7], guidance_scale=2.0, num_inference_steps=8)
        >>> print(pipe.transformer.stats())
        context  steps  cached   cached steps  mean diff  FLOPs done  saved     state
        -------  -----  -------  ------------  ---------  ----------  --------  --------
        cond     8      ...
        uncond   8      ...
        cond: diffs ...
        uncond: follows cond
        >>> leader, follower = (pipe.transformer.stats()[name] for name in ("cond", "uncond"))
        >>> follower.hits == leader.hits, any(leader.hits), follower.flops_done < leader.flops_done
        (True, True, True)
    """

    leader: str

    signal: ClassVar[Signal] = "leader"
    in_state: ClassVar[tuple[str, ...]] = ("leader",)  # the runtime looks it up: one graph serves all

    def __post_init__(self) -> None:
        named = isinstance(self.leader, str) and self.leader != ""
        self._require(named, "leader", "must be the name of a context")
