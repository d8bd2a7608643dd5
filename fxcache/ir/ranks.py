"""Groups of processes that must take the same decision, as a program knows them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from ..ops.agreement import Groups

Agree = Literal["parts", "each"]


@dataclass(frozen=True)
class RankGroup:
    """Ranks whose steps must be hits together.

    name: that of the process group, by which collectives find it. ranks: of the world.
    agree: "parts": they hold parts of one sample; "each": each has its own, but they have collectives in
        common. why: what they share, in words. given: whether the user named the group. handle: the process
        group itself.

    Example:
        >>> from fxcache.ir.ranks import RankGroup
        >>> RankGroup("0", (0, 1), "parts", "context parallelism").describe()
        'ranks 0, 1 decide together, by sums over their parts of the sample (context parallelism)'
    """

    name: str
    ranks: tuple[int, ...]
    agree: Agree
    why: str
    given: bool = False
    handle: Any = field(default=None, compare=False, repr=False)

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return len(self.ranks)

    def describe(self) -> str:
        """Who decides together, and how."""
        how = "sums over their parts of the sample" if self.agree == "parts" else "a vote, each with a sample"
        return f"ranks {', '.join(map(str, self.ranks))} decide together, by {how} ({self.why})"


def named(groups: Iterable[RankGroup], agree: Agree) -> Groups:
    """Names and sizes of the groups that agree in this way.

    Example:
        >>> from fxcache.ir.ranks import RankGroup, named
        >>> named([RankGroup("0", (0, 1), "parts", "given"), RankGroup("5", (0, 2), "each", "FSDP")], "each")
        (('5', 2),)
    """
    return tuple((group.name, group.size) for group in groups if group.agree == agree)
