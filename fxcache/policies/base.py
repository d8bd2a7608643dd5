"""What every policy answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError
from ..ops.clock import COMPUTED, RUN, STEP, TIMESTEP
from ..ops.residual_diff import mean_size
from ..spelling import require_known

# What a policy looks at: the residual of the first Fn blocks; the model's first input, which is denoised; the
# first norm of the first block, modulated; what another context did at this step; or nothing.
Signal = Literal["residual", "sample", "norm", "leader", "none"]
# What it compares that with: its value at the last computed step, at the last step, or its forecast.
Against = Literal["computed", "last", "forecast"]


class Progress(NamedTuple):
    """Where a trajectory stands at the beginning of a step, as 0-dim float32 tensors; `progress` makes it.

    step: number of this step, from 0. run: hits right before it. computed: steps computed so far.
    timestep: the model's own, as it is given; of a model without one a huge number.

    Example:
        >>> import torch
        >>> from fxcache.policies import Progress
        >>> Progress(*torch.tensor([5.0, 2.0, 3.0, 500.0])).run
        tensor(2.)
    """

    step: Tensor
    run: Tensor
    computed: Tensor
    timestep: Tensor


def progress(now: Tensor) -> Progress:
    """That of the clock's live row, [WIDTH].

    Example:
        >>> import torch
        >>> from fxcache.ops.clock import RUN, WIDTH
        >>> from fxcache.policies.base import progress
        >>> now = torch.zeros(WIDTH)
        >>> now[RUN] = 2
        >>> progress(now).run
        tensor(2.)
    """
    return Progress(*(now[column].to(torch.float32) for column in (STEP, RUN, COMPUTED, TIMESTEP)))


class Seen(NamedTuple):
    """What plain runs showed: for each run a number for every step after the first.

    signal: how far the signal moved since the step before. change: the relative L1 change of what is cached;
    ratio: how many times as large it is; both without the last step.

    Example:
        >>> from fxcache.policies import Seen
        >>> Seen(ratio=[(0.98, 0.95)]).change
        ()
    """

    signal: Sequence[Sequence[float]] = ()
    change: Sequence[Sequence[float]] = ()
    ratio: Sequence[Sequence[float]] = ()


class Decision(NamedTuple):
    """What a policy says of a step.

    number: 0-dim float32; the step may be a hit where it is below the threshold R, and NaN never is.
    if_hit, if_computed: what to remember then, [m] float32.

    Example:
        >>> import torch
        >>> from fxcache.policies import Decision
        >>> nothing = torch.zeros(0)
        >>> Decision(torch.tensor(0.25), nothing, nothing).number
        tensor(0.2500)
    """

    number: Tensor
    if_hit: Tensor
    if_computed: Tensor


@dataclass(frozen=True)
class Policy:
    """How a step is found to be a hit: a number that has to be below `residual_diff_threshold`.

    That number is how far the signal moved, or what `decide` makes of that. The limits of a `CacheConfig`
    (warmup, max_cached_steps, steps_mask ...) hold with every policy. A new one is a frozen dataclass of pure
    functions of tensors, which are traced into the graph, so that no value may be read in Python.

    Raises:
        ConfigError: a field has a value that cannot work. UnknownOptionError: there is no such field.

    Example:
        >>> from fxcache import CacheConfig, EasyCache
        >>> config = CacheConfig(
        ...     fn_compute_blocks=0, level="output", policy=EasyCache(), residual_diff_threshold=0.05
        ... )
        >>> config.policy.signal, config.policy.against
        ('sample', 'last')
    """

    signal: ClassVar[Signal] = "residual"
    against: ClassVar[Against] = "computed"
    relative: ClassVar[bool] = True  # whether the signal's change counts relative to its size
    memory: ClassVar[tuple[float, ...]] = ()  # what is remembered between steps, at the beginning
    needs_output: ClassVar[bool] = False  # whether the model's output must be what is cached
    fitted_to: ClassVar[tuple[str, ...]] = ()  # the fields of `Seen` that `fitted` needs
    in_state: ClassVar[tuple[str, ...]] = ()  # fields that `numbers` holds, and the graph does not

    def __new__(cls, *args: Any, **fields: Any) -> Policy:
        require_known(cls.__name__, fields, (f.name for f in dataclasses.fields(cls)))
        return super().__new__(cls)

    def numbers(self) -> tuple[float, ...]:
        """Its numbers that are state, so that one graph serves every value of them.

        Example:
            >>> from fxcache import TeaCache
            >>> TeaCache(coefficients=(2, 0)).numbers()
            (2.0, 0.0)
        """
        return ()

    def graph(self) -> tuple[Any, ...]:
        """What of it is part of the graph: equal for policies that one graph serves.

        Example:
            >>> from fxcache import TeaCache
            >>> TeaCache(coefficients=(2, 0)).graph() == TeaCache(coefficients=(3, 0)).graph()
            True
        """
        fixed = tuple(getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in self.in_state)
        return (type(self), len(self.numbers()), *fixed)

    @property
    def needs_front(self) -> bool:
        """Whether it looks at what the front blocks do, so that Fn must be 1 or more.

        Example:
            >>> from fxcache import DBCache, MagCache
            >>> DBCache().needs_front, MagCache(ratios=(1.0, 0.98)).needs_front
            (True, False)
        """
        return self.signal == "residual"

    def view(self, value: Tensor, progress: Progress) -> Tensor:
        """What of the signal is compared; all of it, as a rule.

        Args:
            value: the signal at this step. progress: where the trajectory stands.

        Example:
            >>> import torch
            >>> from fxcache import DBCache
            >>> DBCache().view(torch.ones(2), None)
            tensor([1., 1.])
        """
        return value

    def fixed_sizes(self, dimensions: int) -> Mapping[int, int]:
        """Sizes that a signal of so many dimensions must have for `view`, by dimension.

        Example:
            >>> from fxcache import SeaCache
            >>> SeaCache(grid=(32, 64)).fixed_sizes(3)  # [batch, tokens, channels]
            {1: 2048}
        """
        return {}

    def decide(self, change: Tensor | None, memory: Tensor, numbers: Tensor, progress: Progress) -> Decision:
        """The number to compare with the threshold; where a policy has none of its own, the signal's change.

        Args:
            change: 0-dim float32, how far the signal moved; None where there is none.
            memory: [m] float32, what was remembered. numbers: [n] float32, as `numbers` says.
            progress: where the trajectory stands.

        Example:
            >>> import torch
            >>> from fxcache import Budget
            >>> nothing = torch.zeros(0)
            >>> Budget().decide(torch.tensor(0.25), torch.tensor([0.5]), nothing, None).number
            tensor(0.7500)
        """
        assert change is not None
        return Decision(change, memory, memory)

    @property
    def decides(self) -> bool:
        """Whether it has a number of its own, rather than the signal's change.

        Example:
            >>> from fxcache import Budget, DBCache
            >>> DBCache().decides, Budget().decides
            (False, True)
        """
        return type(self).decide is not Policy.decide

    def learn(
        self,
        computed: Tensor,
        given: tuple[Tensor, Tensor],
        returned: tuple[Tensor, Tensor],
        size_of: Callable[[Tensor], Tensor] = mean_size,
    ) -> Tensor:
        """What to remember of a computed step, [m] float32, in place of `Decision.if_computed`.

        Args:
            computed: 0-dim, how many steps were computed before this one.
            given: the sample at this step and at the last computed one. returned: what is cached, at these:
                the first of several values.
            size_of: the mean absolute value of a tensor; where ranks hold parts of a sample, of all of it.

        Example:
            >>> import torch
            >>> from fxcache import EasyCache
            >>> x, y = (torch.tensor([3.0]), torch.tensor([1.0])), (torch.tensor([5.0]), torch.tensor([1.0]))
            >>> EasyCache().learn(torch.tensor(1), given=x, returned=y)  # spent, gain, size
            tensor([0., 2., 5.])
        """
        raise NotImplementedError

    @property
    def learns(self) -> bool:
        """Whether it looks at what computed steps give.

        Example:
            >>> from fxcache import DBCache, EasyCache
            >>> DBCache().learns, EasyCache().learns
            (False, True)
        """
        return type(self).learn is not Policy.learn

    def fitted(self, seen: Seen) -> Policy:
        """It, with numbers fitted to plain runs.

        Example:
            >>> from fxcache import MagCache
            >>> from fxcache.policies import Seen
            >>> MagCache(ratios=[1.0]).fitted(Seen(ratio=[(0.9, 0.8), (0.7, 0.8)])).ratios
            (1.0, 0.8, 0.8, 0.8)
        """
        return self

    def plain(self) -> Policy:
        """It, with numbers that take the signal's changes as they are, one by one where all steps compute.

        Example:
            >>> from fxcache import TeaCache
            >>> TeaCache(coefficients=(2, 1)).plain().coefficients
            (1.0, 0.0)
        """
        return self

    def _require(self, fits: bool, field: str, need: str) -> None:
        if not fits:
            raise ConfigError("policy", self, f"its {field} {need}")
