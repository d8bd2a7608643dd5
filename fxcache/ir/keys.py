"""The names of what a cached graph remembers and hands on: made here, and nowhere else.

The capture keeps the model's own names apart from these (`names.avoid_reserved`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

StateKind = Literal[
    "clock",
    "log",
    "sample",
    "previous",
    "knobs",
    "plan",
    "fits",
    "policy",
    "memory",
    "given",
    "leader",
    "digest",
]
ValueKind = Literal[
    "near",
    "residual",
    "norm",
    "view",
    "change",
    "now",
    "hit",
    "record",
    "if_hit",
    "if_computed",
    "row",
    "follows",
    "done",
]
StageKind = Literal["front", "skip", "compute", "back"]


@dataclass(frozen=True)
class StateKey:
    """A state tensor of a segment. kind: "clock" and "log" say what a trajectory did; "sample" is what the
    last step was given to denoise, "given" what the last computed one was; "previous" is what the policy
    compares the signal with; "knobs" holds the settings that decide, "policy" the numbers of the policy and
    "memory" what it remembers; "plan" the rows of plans, "fits" which of them the trajectory followed so far;
    "leader" what the context that this one follows did; "digest" stands for the settings, which must be those
    of the other ranks.

    Example:
        >>> from fxcache.ir.keys import StateKey
        >>> StateKey("clock", segment=1).name
        'clock_1'
    """

    kind: StateKind
    segment: int = 0

    @property
    def name(self) -> str:
        """The name of the tensor, in the graph and in a package."""
        return f"{self.kind}_{self.segment}"


@dataclass(frozen=True)
class HistoryKey:
    """The state tensor of a value of the middle: what it was at the last computed steps.

    Example:
        >>> from fxcache.ir.keys import HistoryKey
        >>> HistoryKey("single_transformer_blocks_7_1").name
        'single_transformer_blocks_7_1_history'
    """

    value: str

    @property
    def name(self) -> str:
        """The name of the tensor, in the graph and in a package."""
        return f"{self.value}_history"


@dataclass(frozen=True)
class ValueKey:
    """A value that the front of a segment hands on: what it decided, and from what.

    Example:
        >>> from fxcache.ir.keys import ValueKey
        >>> ValueKey("hit").name
        'hit_0'
    """

    kind: ValueKind
    segment: int = 0

    @property
    def name(self) -> str:
        """The name of the value in the graph."""
        return f"{self.kind}_{self.segment}"


# What is named so: with `output_N`, those of the capture's own outputs.
NUMBERED = "|".join((*get_args(StateKind), *get_args(ValueKind), "output"))
HISTORY = re.compile(r"(.+)_history")
SETTINGS = re.compile(r"(knobs|plan|policy|digest)_\d+")  # what a config says that is no part of the graph
POLICY = re.compile(r"policy_\d+")  # of these, what the policy says
# All but what is as large as the model's own values: counts, settings, rows of weights, decisions.
LARGE = ("sample", "previous", "given", "residual", "norm", "view")
SMALL = "|".join(kind for kind in (*get_args(StateKind), *get_args(ValueKind)) if kind not in LARGE)
BOOKKEEPING = re.compile(rf"({SMALL})_\d+")
DIGEST = re.compile(r"digest_\d+")  # of these, what stands for all
LEADER = re.compile(r"leader_(\d+)")  # what a context that follows another is told of it
RECORD = re.compile(r"(clock|log)_\d+")  # the small state tensors that say what a trajectory did


def stage_name(kind: StageKind, segment: int, segments: int) -> str:
    """The name of a stage; of one segment it has no number.

    Example:
        >>> from fxcache.ir.keys import stage_name
        >>> stage_name("skip", segment=1, segments=2), stage_name("skip", segment=0, segments=1)
        ('skip_1', 'skip')
    """
    return kind if segments == 1 or kind == "back" else f"{kind}_{segment}"


def stage_names(kind: StageKind, segments: int) -> list[str]:
    """The names of the stages of one kind, of all segments in order.

    Example:
        >>> from fxcache.ir.keys import stage_names
        >>> stage_names("front", segments=2)
        ['front_0', 'front_1']
    """
    return [stage_name(kind, i, segments) for i in range(segments)]
