"""What to cache and when to reuse it: one frozen, validated dataclass."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from . import notation
from .errors import ConfigError, MaskTooShortError, PlanError, SignalRequiredError
from .forecasters import Forecaster, forecaster_from_dict, forecaster_to_dict
from .ops.plan import PLANS
from .plans import Plan
from .plans.plan import as_plans
from .policies import DBCache, Follow, Policy, policy_from_dict, policy_to_dict
from .spelling import require_known

DBCACHE = DBCache()
MaskPolicy = Literal["dynamic", "static"]
Level = Literal["middle", "output"]
Batch = Literal["mean", "every"]
HistoryDtype = Literal["model", "float32", "bfloat16", "float16", "float8"]
# What other caches call these.
OTHERS = {
    "threshold": "residual_diff_threshold",
    "rdt": "residual_diff_threshold",
    "steps_computation_mask": "steps_mask",
    "steps_computation_policy": "steps_mask_policy",
    "warmup_steps": "max_warmup_steps",
    "taylorseer_order": "forecaster",
    "enable_taylorseer": "forecaster",
    "calibrator_config": "forecaster",
    "calibrator": "forecaster",
}


@dataclass(frozen=True)
class CacheConfig:
    """Settings of the block cache (DBCache; terms as in cache-dit and ParaAttention).

    fn_compute_blocks: Fn, blocks at the front that every step runs; their residual is the signal.
        0 where the policy needs none, or a static steps mask decides.
    bn_compute_blocks: Bn, blocks at the back that every step runs.
    max_warmup_steps: W, steps at the start of a trajectory that compute.
    warmup_interval: within the warmup only every I-th step must compute.
    max_cached_steps: M, at most N hits in a trajectory; None is no limit.
    max_continuous_cached_steps: MC, at most N hits in a row; None is no limit.
    residual_diff_threshold: R, a hit needs the policy's number below this: of DBCache's, the relative L1
        change of the front residual. 0 never hits.
    max_accumulated_residual_diff: no hit once these numbers of the trajectory add up to this.
    steps_mask: per step 1 (compute) or 0 (may cache); also a string such as "1101".
    steps_mask_policy: what a 0 means: "dynamic" checks the residual, "static" hits unchecked.
    forecaster: what a hit replays: None the stored residual, or e.g. `TaylorSeer(order=1)`.
    policy: what says how far a step is from the last computed one: `DBCache()`, or e.g. `ForecastError()`.
        See `fxcache.policies`.
    level: what is cached: "middle", what the blocks between the first Fn and the last Bn give, or "output",
        what the model returns; a hit then runs nothing behind the first Fn blocks, and Bn is 0.
    feedback: a computed step after hits also pays back what these made wrong. For level "output"; worth
        nothing where a middle is cached linearly.
    batch: how the rows of a batch decide together: "mean", by the change of all of them; "every", by the row
        that changed most, so that the batch hits only where each row would. Rows lie along the first
        dimension of the residual. A row that begins later than the others is the caller's to keep apart.
    steps: of a run; None where the sampler tells (diffusers' pipelines begin to, by `cache_context`), or
        nobody does. For the next three only, which say nothing as long as it is not known.
    last_compute_steps: as many steps at the end of a run compute.
    start_percent, end_percent: only steps from this share of a run on, and up to that, may be hits; 0 to 1.
    history_dtype: of what is remembered: the value's own, "model", or another; "float8" is e4m3.
    history_offload: whether that lies in the host's memory, from which every hit fetches it.
    signal_stride: of the front residual every n-th token is compared, and remembered. Tokens lie along the
        second dimension.
    plans: schedules known beforehand decide, and say what a hit is made of; at most 4, of which the
        timesteps of a run choose. Fn, Bn and the level are theirs; of the other fields only those of the
        history count.
    follow: contexts that decide nothing themselves, each with the one that it follows, as
        {"uncond": "cond"}: a step of it is a hit where that one's same step was. It runs no front blocks and
        measures nothing. The leader is called first, in the same thread, with the same sample and time;
        where it was not, the step computes. Not with plans, by which all contexts do alike anyway.
    enabled: False is the uncached baseline, written `C0_Q0_NONE`.

    Raises:
        ConfigError: a value that cannot work. SignalRequiredError: Fn is 0, but a residual is to be compared.
        UnknownOptionError: no such field.

    Example:
        >>> from fxcache import CacheConfig, TaylorSeer
        >>> config = CacheConfig(fn_compute_blocks=4, max_warmup_steps=6, forecaster=TaylorSeer(order=2))
        >>> print(config)
        F4B0_W6M0MC0_T1O2_R0.08
        >>> CacheConfig(residual_diff_threshold=-1)
        Traceback (most recent call last):
        fxcache.errors.ConfigError: CacheConfig.residual_diff_threshold = -1: must be a finite number ...
    """

    fn_compute_blocks: int = 8
    bn_compute_blocks: int = 0
    max_warmup_steps: int = 8
    warmup_interval: int = 1
    max_cached_steps: int | None = None
    max_continuous_cached_steps: int | None = None
    residual_diff_threshold: float = 0.08
    max_accumulated_residual_diff: float | None = None
    steps_mask: tuple[int, ...] | None = None
    steps_mask_policy: MaskPolicy = "dynamic"
    forecaster: Forecaster | None = None
    policy: Policy = DBCACHE
    level: Level = "middle"
    feedback: bool = False
    batch: Batch = "mean"
    steps: int | None = None
    last_compute_steps: int = 0
    start_percent: float = 0.0
    end_percent: float = 1.0
    history_dtype: HistoryDtype = "model"
    history_offload: bool = False
    signal_stride: int = 1
    plans: tuple[Plan, ...] = ()
    follow: Mapping[str, str] | tuple[tuple[str, str], ...] = ()  # read as a sorted tuple of pairs
    enabled: bool = True

    def __new__(cls, *args: Any, **fields: Any) -> CacheConfig:
        require_known("CacheConfig", fields, FIELDS, OTHERS)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name, least in (
            ("fn_compute_blocks", 0),
            ("bn_compute_blocks", 0),
            ("max_warmup_steps", 0),
            ("last_compute_steps", 0),
            ("warmup_interval", 1),
            ("signal_stride", 1),
        ):
            _need_int(name, getattr(self, name), least)
        for name in ("max_cached_steps", "max_continuous_cached_steps", "steps"):
            if getattr(self, name) is not None:
                _need_int(name, getattr(self, name), 1)
        _need_number("residual_diff_threshold", self.residual_diff_threshold, above_zero=False)
        if self.max_accumulated_residual_diff is not None:
            _need_number("max_accumulated_residual_diff", self.max_accumulated_residual_diff, above_zero=True)
        for name in ("start_percent", "end_percent"):
            _need_number(name, getattr(self, name), above_zero=False)
        if not self.start_percent <= self.end_percent <= 1:
            raise ConfigError("end_percent", self.end_percent, "must be start_percent to 1")
        if self.steps_mask is not None:
            object.__setattr__(self, "steps_mask", _read_mask(self.steps_mask))
        if self.steps_mask_policy not in ("dynamic", "static"):
            raise ConfigError("steps_mask_policy", self.steps_mask_policy, 'be "dynamic" or "static"')
        if self.forecaster is not None and not isinstance(self.forecaster, Forecaster):
            raise ConfigError(
                "forecaster", self.forecaster, "be None or a forecaster such as TaylorSeer(order=1)"
            )
        if not isinstance(self.policy, Policy):
            raise ConfigError("policy", self.policy, "be a policy such as DBCache()")
        for name in ("enabled", "feedback", "history_offload"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(name, getattr(self, name), "be True or False")
        if self.level not in ("middle", "output"):
            raise ConfigError("level", self.level, 'be "middle" or "output"')
        if self.batch not in ("mean", "every"):
            raise ConfigError("batch", self.batch, 'be "mean" or "every"')
        dtypes = get_args(HistoryDtype)
        if self.history_dtype not in dtypes:
            raise ConfigError("history_dtype", self.history_dtype, f"be one of {', '.join(dtypes)}")
        if self.level == "output" and self.bn_compute_blocks:
            raise ConfigError("bn_compute_blocks", self.bn_compute_blocks, 'must be 0 with level="output"')
        object.__setattr__(self, "plans", tuple(self.plans))
        object.__setattr__(self, "follow", _read_follow(self.follow))
        self._check_policy()
        if self.plans:
            self._check_plans()

    def _check_policy(self) -> None:
        if self.policy.needs_output and self.level != "output":
            raise ConfigError("policy", self.policy, 'looks at what the model returns: set level="output"')
        if self.batch == "every" and self.policy.signal != "none" and not self.policy.relative:
            raise ConfigError("policy", self.policy, 'cannot tell rows apart: set batch="mean"')
        if self.plans or self.static or not self.enabled or self.fn_compute_blocks > 0:
            return
        if self.policy.needs_front:
            raise SignalRequiredError

    def _check_plans(self) -> None:
        as_plans(self.plans)
        if len(self.plans) > PLANS:
            raise ConfigError("plans", f"{len(self.plans)} plans", f"must be at most {PLANS}")
        if any(_of_plan(p) != _of_plan(self.plans[0]) for p in self.plans):
            raise ConfigError("plans", "(...)", "must have one level, Fn and Bn: one graph serves them")
        for name, value in _of_plan(self.plans[0]).items():
            if getattr(self, name) != value:
                need = f"the plan has {value!r}; build it with CacheConfig.from_plans()"
                raise ConfigError(name, getattr(self, name), need)
        if self.forecaster is not None or self.steps_mask is not None or self.feedback:
            given = (
                ("forecaster", self.forecaster),
                ("steps_mask", self.steps_mask),
                ("feedback", self.feedback),
            )
            name, value = next((n, v) for n, v in given if v)
            raise ConfigError(name, value, "must be left out where plans say what a step is made of")
        if self.follow:
            need = "must be left out with plans, by which all contexts do alike and run no block to decide"
            raise ConfigError("follow", dict(self.follow), need)

    @property
    def static(self) -> bool:
        """Whether a steps mask decides alone, with no look at the residual.

        Example:
            >>> from fxcache import CacheConfig
            >>> CacheConfig(steps_mask="1101", steps_mask_policy="static").static, CacheConfig().static
            (True, False)
        """
        return self.steps_mask is not None and self.steps_mask_policy == "static"

    @property
    def followed(self) -> tuple[tuple[str, str], ...]:
        """Pairs of a context and the one that it follows.

        Example:
            >>> from fxcache import CacheConfig
            >>> CacheConfig(follow={"uncond": "cond"}).followed
            (('uncond', 'cond'),)
        """
        return tuple(self.follow)  # type: ignore[arg-type]

    def for_context(self, name: str) -> CacheConfig:
        """The settings of the context `name`: where it follows another, those of a follower.

        These have no front blocks and no limits of their own; what a hit is made of, and Bn, are as given.

        Example:
            >>> from fxcache import CacheConfig
            >>> config = CacheConfig(fn_compute_blocks=4, bn_compute_blocks=2, follow={"uncond": "cond"})
            >>> print(config.for_context("uncond"))
            F0B2_W0M0MC0_T0O1_R1_D{"name":"follow","leader":"cond"}
            >>> config.for_context("cond") is config
            True
        """
        leader = dict(self.followed).get(name) if self.follow else None
        return self if leader is None or not self.enabled else _following(self, leader)

    @property
    def needs_steps(self) -> bool:
        """Whether it says something of the end of a run, for which the number of steps must be known.

        Example:
            >>> from fxcache import CacheConfig
            >>> CacheConfig(last_compute_steps=1).needs_steps, CacheConfig().needs_steps
            (True, False)
        """
        return bool(self.last_compute_steps or self.start_percent or self.end_percent < 1)

    @property
    def values(self) -> int:
        """k of its plans: of how many computed values a step is made. 0 where there are none.

        Example:
            >>> from fxcache import CacheConfig, Plan
            >>> plan = Plan(steps=2, computed=(0,), weights=((1, 0), (0, 1)))
            >>> CacheConfig.from_plans(plan).values, CacheConfig().values
            (1, 0)
        """
        return max((p.values for p in self.plans), default=0)

    @classmethod
    def from_plans(cls, plans: Plan | Sequence[Plan]) -> CacheConfig:
        """The config that follows a plan, or several of one level.

        Raises:
            PlanError: what is given is none. ConfigError: they cannot be followed by one graph.

        Example:
            >>> from fxcache import CacheConfig, Plan
            >>> plan = Plan(steps=2, computed=(0,), weights=((1, 0), (0, 1)))
            >>> print(CacheConfig.from_plans(plan))
            P2K1_...
        """
        given = as_plans(plans)
        return cls(plans=given, **_of_plan(given[0]))

    def for_steps(self, steps: int) -> CacheConfig:
        """This config, checked against the number of steps that will be run; it holds that where it needs to.

        Raises:
            MaskTooShortError: a steps mask covers fewer. PlanError: no plan is for so many.

        Example:
            >>> from fxcache import CacheConfig
            >>> CacheConfig(steps_mask="1101").for_steps(28)
            Traceback (most recent call last):
            fxcache.errors.MaskTooShortError: steps_mask has 4 entries but 28 steps will be run: ...
        """
        if self.plans and all(plan.steps != steps for plan in self.plans):
            there = ", ".join(str(plan.steps) for plan in self.plans)
            raise PlanError(f"the plan is for {there} steps, but {steps} will be run")
        if self.steps_mask is not None and len(self.steps_mask) < steps:
            raise MaskTooShortError(len(self.steps_mask), steps)
        return self.replace(steps=steps) if self.needs_steps and self.steps != steps else self

    def replace(self, **changes: Any) -> CacheConfig:
        """A copy with some fields changed, validated again. Raises what building one does.

        Example:
            >>> from fxcache import CacheConfig
            >>> str(CacheConfig().replace(max_continuous_cached_steps=3))
            'F8B0_W8M0MC3_T0O1_R0.08'
        """
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_string(cls, text: str) -> CacheConfig:
        """Read the benchmark's notation, `F8B0_W8M0MC3_T1O1_R0.12` or `C0_Q0_NONE`.

        Raises:
            NotationError: anything else. ConfigError: it says what cannot work.

        Example:
            >>> from fxcache import CacheConfig
            >>> CacheConfig.from_string("F8B0_W8M0MC3_T1O1_R0.12").forecaster
            TaylorSeer(order=1, calibrate='residual', distance='step')
        """
        return cls(**notation.parse(text))

    def __str__(self) -> str:
        return notation.write(dict(vars(self)))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> CacheConfig:
        """Build from plain values; a forecaster or policy may be a mapping, as `{"name": "newton"}`.

        Raises:
            ConfigError, UnknownOptionError, SignalRequiredError: as building one does.

        Example:
            >>> from fxcache import CacheConfig
            >>> str(CacheConfig.from_dict({"fn_compute_blocks": 1, "forecaster": {"name": "taylorseer"}}))
            'F1B0_W8M0MC0_T1O1_R0.08'
        """
        require_known("CacheConfig", fields, FIELDS, OTHERS)
        values = dict(fields)
        if isinstance(values.get("forecaster"), Mapping):
            values["forecaster"] = forecaster_from_dict(values["forecaster"])
        if isinstance(values.get("policy"), str):
            values["policy"] = {"name": values["policy"]}
        if isinstance(values.get("policy"), Mapping):
            values["policy"] = policy_from_dict(values["policy"])
        if "plans" in values:
            plans = [p if isinstance(p, Plan) else Plan.from_dict(p) for p in values["plans"]]
            values["plans"] = tuple(plans)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON and YAML can hold; `from_dict` reads them back.

        Example:
            >>> from fxcache import CacheConfig
            >>> CacheConfig(steps_mask="1101").to_dict()["steps_mask"]
            [1, 1, 0, 1]
        """
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if self.forecaster is not None:
            values["forecaster"] = forecaster_to_dict(self.forecaster)
        values["policy"] = policy_to_dict(self.policy)
        if self.steps_mask is not None:
            values["steps_mask"] = list(self.steps_mask)
        values["plans"] = [p.to_dict() for p in self.plans]
        values["follow"] = dict(self.followed)
        return values

    @classmethod
    def from_yaml(cls, source: str | Path) -> CacheConfig:
        """Read a YAML file, or YAML text: a mapping of the fields, or the notation.

        Raises:
            ConfigError: it holds neither, or cannot be read. And what `from_dict` and `from_string` raise.

        Example:
            >>> from fxcache import CacheConfig
            >>> text = "fn_compute_blocks: 1\\nforecaster: {name: newton, order: 2}"
            >>> CacheConfig.from_yaml(text).forecaster.order
            2
        """
        import yaml

        path = Path(source)
        is_file = isinstance(source, Path) or ("\n" not in source and path.suffix in (".yaml", ".yml"))
        try:
            fields = yaml.safe_load(path.read_text() if is_file else str(source))
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError("from_yaml", source, f"be readable: {error}") from error
        if isinstance(fields, str):
            return cls.from_string(fields)
        if not isinstance(fields, Mapping):
            raise ConfigError("from_yaml", source, "hold a mapping of CacheConfig's fields")
        return cls.from_dict(fields)


# What a config may be given as; of a pipeline also a mapping from its components' names to such.
ConfigLike = CacheConfig | Plan | Sequence[Plan] | str | Path | Mapping[str, Any] | None
FIELDS = tuple(f.name for f in dataclasses.fields(CacheConfig))


def _of_plan(plan: Plan) -> dict[str, Any]:
    """The fields of a config that are a plan's."""
    level = "output" if plan.level == "output" else "middle"
    blocks = {"fn_compute_blocks": plan.fn_compute_blocks, "bn_compute_blocks": plan.bn_compute_blocks}
    return {"level": level, **blocks}


def as_config(value: ConfigLike) -> CacheConfig:
    """The config that a user means: a config, a plan or several, the notation, the path of a plan's file or a
    YAML file, a mapping, or None for the defaults.

    Raises:
        ConfigError: it is none of these. PlanError: the file holds no plan. And what building one raises.

    Example:
        >>> from fxcache.config import as_config
        >>> str(as_config({"fn_compute_blocks": 1})), str(as_config(None)), str(as_config("C0_Q0_NONE"))
        ('F1B0_W8M0MC0_T0O1_R0.08', 'F8B0_W8M0MC0_T0O1_R0.08', 'C0_Q0_NONE')
    """
    if isinstance(value, CacheConfig):
        return value
    if isinstance(value, Plan):
        return CacheConfig.from_plans(value)
    if isinstance(value, Path) or (isinstance(value, str) and value.endswith(".json")):
        return CacheConfig.from_plans(Plan.load(value))
    if isinstance(value, str) and value.endswith((".yaml", ".yml")):
        return CacheConfig.from_yaml(value)
    if isinstance(value, str):
        return CacheConfig.from_string(value)
    if isinstance(value, Mapping):
        return CacheConfig.from_dict(value)
    if value is None:
        return CacheConfig()
    if isinstance(value, (list, tuple)) and value and all(isinstance(p, Plan) for p in value):
        return CacheConfig.from_plans(value)
    need = "it must be a CacheConfig, a Plan, a string in the notation, or a mapping of its fields"
    raise ConfigError("config", value, need, of="fxcache.transform()")


@functools.lru_cache(maxsize=64)
def _following(config: CacheConfig, leader: str) -> CacheConfig:
    """The settings of a context that follows `leader`, which has those of `config`, limits included."""
    hits = config.residual_diff_threshold > 0 or config.static
    return config.replace(
        fn_compute_blocks=0,
        max_warmup_steps=0,
        warmup_interval=1,
        max_cached_steps=None,
        max_continuous_cached_steps=None,
        residual_diff_threshold=float(hits),
        max_accumulated_residual_diff=None,
        steps_mask=None,
        steps_mask_policy="dynamic",
        policy=Follow(leader),
        batch="mean",
        steps=None,
        last_compute_steps=0,
        start_percent=0.0,
        end_percent=1.0,
        signal_stride=1,
        follow=(),
    )


def _need_int(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        none = {"max_c": " (or None for no limit)", "steps": " (or None)"}.get(name[:5], "")
        raise ConfigError(name, value, f"must be a whole number of at least {least}{none}")


def _need_number(name: str, value: Any, above_zero: bool) -> None:
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not numeric or not math.isfinite(value) or value < 0 or (above_zero and value == 0):
        raise ConfigError(
            name, value, f"must be a finite number {'above' if above_zero else 'of at least'} 0"
        )


def _read_mask(mask: str | Sequence[int]) -> tuple[int, ...]:
    entries = tuple(int(c) if c in "01" else -1 for c in mask) if isinstance(mask, str) else tuple(mask)
    if not entries or any(e not in (0, 1) for e in entries):
        raise ConfigError("steps_mask", mask, "must hold one 0 (may cache) or 1 (compute) for each step")
    return tuple(int(e) for e in entries)


def _read_follow(given: Any) -> tuple[tuple[str, str], ...]:
    pairs = given.items() if isinstance(given, Mapping) else given
    listed = isinstance(pairs, Iterable) and not isinstance(pairs, str)
    found: list[Any] = list(pairs) if listed else [None]
    if not all(isinstance(p, (tuple, list)) and len(p) == 2 and all(map(_is_name, p)) for p in found):
        need = 'must say which context follows which, by their names, as {"uncond": "cond"}'
        raise ConfigError("follow", given, need)
    leaders: dict[str, str] = dict(found)
    if len(leaders) < len(found):
        raise ConfigError("follow", given, "must name one leader for each context")
    for name, leader in leaders.items():
        if name == leader:
            raise ConfigError("follow", given, f"{name!r} cannot follow itself: name another context")
        if leader in leaders:
            need = f"{leader!r} follows another itself: let {name!r} follow {leaders[leader]!r}"
            if leaders[leader] == name:
                need = f"{name!r} and {leader!r} follow each other: one of them must decide"
            raise ConfigError("follow", given, need)
    return tuple(sorted(leaders.items()))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""
