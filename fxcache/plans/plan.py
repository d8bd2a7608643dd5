"""`Plan`: a schedule known beforehand, with weights for each step."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import PlanError
from ..spelling import require_known
from ..version import __version__

Level = Literal["output", "residual", "hidden_states"]
FORMAT = 1  # raised when an older fxcache could not read a plan any more
MAX_STEPS = 256  # rows of a plan in a graph's state
MAX_VALUES = 4  # computed values that a step may be made of


@dataclass(frozen=True)
class Quality:
    """What a plan was measured to do on runs that it was not fitted on.

    psnr: mean over these runs, in dB, against the same runs with every step computed; worst: mean of their
    worst 5%, at least of one. runs: how many.

    Example:
        >>> from fxcache.plans.plan import Quality
        >>> Quality(psnr=51.2, worst=38.0, runs=4).runs
        4
    """

    psnr: float
    worst: float
    runs: int


@dataclass(frozen=True)
class Plan:
    """Which steps are computed, and what each step is made of. Built by `fxcache.plan` and `calibrate`.

    A step gives `w0 * own + w1 * latest + w2 * second latest + ...`: `own` is the value computed at it, the
    others those of the last k computed steps before it. A step that is not computed has no `own` (w0 = 0).
    One that is computed and more than `own` is made of pays back the error that the steps before it made
    (feedback). Values are the model's outputs, or those of a middle of its blocks (`level`).

    steps: of a run. computed: which steps are, counted from 0.
    weights: [steps][k + 1], the rows above.
    timesteps: what the model is given as its timestep at each step, in its own unit; None for any.
    level: what is cached: "output", "residual" (what the blocks between the first Fn and the last Bn add),
        "hidden_states" (what these blocks return).
    fn_compute_blocks, bn_compute_blocks: Fn and Bn; 0 for level "output".
    model, scheduler: names of the classes that it was made for, where known.
    method: how the weights were found. runs: on how many runs. quality: on others.

    Raises:
        PlanError: what is given is no plan. UnknownOptionError: no such field.

    Example:
        Of four steps the third is the line through the first two; the last pays back.

        >>> from fxcache import Plan
        >>> rows = ((1, 0, 0), (1, 0, 0), (0, 2, -1), (1.5, -1, 0.5))
        >>> plan = Plan(steps=4, computed=(0, 1, 3), weights=rows)
        >>> plan.values, plan.hits, round(plan.speedup, 2)
        (2, (2,), 1.33)
        >>> print(plan)
        4 steps, 3 computed: 1.33x fewer FLOPs of the model
        ##.+   # computed  + with feedback  . replayed
        weights: given; for any timesteps
        >>> Plan(steps=4, computed=(1, 3), weights=rows)
        Traceback (most recent call last):
        fxcache.errors.PlanError: no plan: step 0 must be computed. ...
    """

    steps: int
    computed: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...]
    timesteps: tuple[float, ...] | None = None
    level: Level = "output"
    fn_compute_blocks: int = 0
    bn_compute_blocks: int = 0
    model: str | None = None
    scheduler: str | None = None
    method: str = "given"
    runs: int = 0
    quality: Quality | None = None

    def __new__(cls, *args: Any, **fields: Any) -> Plan:
        require_known("Plan", fields, (f.name for f in dataclasses.fields(cls)))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        put = object.__setattr__
        try:
            put(self, "computed", tuple(map(_whole, self.computed)))
            put(self, "weights", tuple(tuple(map(float, row)) for row in self.weights))
            if self.timesteps is not None:
                put(self, "timesteps", tuple(map(float, self.timesteps)))
            _check(self)
        except (TypeError, ValueError) as error:
            if isinstance(error, PlanError):
                raise
            raise PlanError(f"no plan: {error}") from error

    @property
    def values(self) -> int:
        """k: of how many computed values a step is made, besides its own."""
        return len(self.weights[0]) - 1

    @property
    def hits(self) -> tuple[int, ...]:
        """The steps that are not computed."""
        return tuple(sorted(set(range(self.steps)) - set(self.computed)))

    @property
    def speedup(self) -> float:
        """How many times fewer steps are computed than run; of level "output", how many times fewer FLOPs."""
        return self.steps / len(self.computed)

    def is_corrected(self, step: int) -> bool:
        """Whether a step is computed and more is given than its own value.

        Example:
            >>> import fxcache
            >>> fxcache.Plan(steps=2, computed=(0, 1), weights=((1, 0), (1.5, -0.5))).is_corrected(1)
            True
        """
        own, *others = self.weights[step]
        return own != 0 and (own != 1 or any(others))

    def replace(self, **changes: Any) -> Plan:
        """A copy with some fields changed, validated again.

        Raises:
            PlanError, UnknownOptionError: as building one does.

        Example:
            >>> import fxcache
            >>> plan = fxcache.Plan(steps=1, computed=(0,), weights=((1, 0),))
            >>> plan.replace(model="FluxTransformer2DModel").model
            'FluxTransformer2DModel'
        """
        return dataclasses.replace(self, **changes)

    def padded(self, values: int) -> Plan:
        """The same plan with room for more values in a row.

        Example:
            >>> import fxcache
            >>> fxcache.Plan(steps=2, computed=(0,), weights=((1, 0), (0, 1))).padded(3).weights[1]
            (0.0, 1.0, 0.0, 0.0)
        """
        rest = (0.0,) * (values - self.values)
        return self.replace(weights=tuple((*row, *rest) for row in self.weights)) if rest else self

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; `from_dict` reads them back.

        Example:
            >>> import fxcache
            >>> fxcache.Plan(steps=1, computed=(0,), weights=((1, 0),)).to_dict()["weights"]
            [[1.0, 0.0]]
        """
        fields = dataclasses.asdict(self)
        fields["computed"], fields["weights"] = list(self.computed), [list(row) for row in self.weights]
        fields["timesteps"] = None if self.timesteps is None else list(self.timesteps)
        return {"format": FORMAT, "fxcache": __version__, **fields}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Plan:
        """Read what `to_dict` wrote.

        Raises:
            PlanError: it is not that, or of a newer fxcache.

        Example:
            >>> import fxcache
            >>> plan = fxcache.Plan(steps=2, computed=(0,), weights=((1, 0), (0, 1)))
            >>> fxcache.Plan.from_dict(plan.to_dict()) == plan
            True
        """
        if not isinstance(fields, Mapping) or "format" not in fields or "weights" not in fields:
            raise PlanError("this holds no plan", "Give what Plan.save() wrote.")
        values = dict(fields)
        found, by = values.pop("format"), values.pop("fxcache", "another version")
        if not isinstance(found, int) or found > FORMAT:
            raise PlanError(
                f"this plan was written by fxcache {by} in format {found}; this fxcache reads up to {FORMAT}",
                "Upgrade fxcache, or make the plan anew.",
            )
        unknown = values.keys() - {f.name for f in dataclasses.fields(cls)}
        if unknown:
            raise PlanError(f"no plan: it has {', '.join(sorted(map(repr, unknown)))}")
        try:
            if isinstance(values.get("quality"), Mapping):
                values["quality"] = Quality(**values["quality"])
            return cls(**values)
        except TypeError as error:
            raise PlanError(f"no plan: {error}") from error

    def save(self, path: str | Path) -> Path:
        """Write it as a JSON file.

        Example:
            >>> import fxcache
            >>> plan = fxcache.Plan(steps=2, computed=(0,), weights=((1, 0), (0, 1)))
            >>> fxcache.Plan.load(plan.save("plan.json")) == plan
            True
        """
        file = Path(path)
        file.write_text(_readable(self.to_dict()))
        return file

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a file that `save` wrote.

        Raises:
            PlanError: the file is missing, truncated, no plan, or of a newer fxcache.

        Example:
            >>> import fxcache
            >>> fxcache.Plan.load("nowhere.json")
            Traceback (most recent call last):
            fxcache.errors.PlanError: nowhere.json: there is no such file. ...
        """
        file = Path(path)
        if not file.is_file():
            raise PlanError(f"{file}: there is no such file")
        try:
            fields = json.loads(file.read_text())
        except ValueError as error:  # no JSON, or no text
            raise PlanError(f"{file}: this is no JSON, or it is truncated: {error}") from error
        try:
            return cls.from_dict(fields)
        except PlanError as error:
            raise PlanError(f"{file}: {error.what}", error.remedy) from error

    def draw(self) -> str:
        """The schedule as one line, a character for each step.

        Example:
            >>> import fxcache
            >>> fxcache.Plan(steps=3, computed=(0, 2), weights=((1, 0), (0, 1), (1.5, -0.5))).draw()
            '#.+'
        """
        computed = set(self.computed)
        return "".join(
            "." if step not in computed else "+" if self.is_corrected(step) else "#"
            for step in range(self.steps)
        )

    def __str__(self) -> str:
        between = f"between F{self.fn_compute_blocks} and B{self.bn_compute_blocks}"
        what = "the model" if self.level == "output" else f"the blocks {between}"
        times = "for any timesteps"
        if self.timesteps is not None:
            times = f"for timesteps {self.timesteps[0]:g} to {self.timesteps[-1]:g}"
        made = [f"weights: {self.method}" + (f" on {self.runs} runs" if self.runs else ""), times]
        made += [name for name in (self.model, self.scheduler) if name]
        lines = [
            f"{self.steps} steps, {len(self.computed)} computed: {self.speedup:.2f}x fewer FLOPs of {what}",
            f"{self.draw()}   # computed  + with feedback  . replayed",
            "; ".join(made),
        ]
        if self.quality is not None:
            q = self.quality
            lines.append(f"on {q.runs} other runs: {q.psnr:.1f} dB, worst 5% {q.worst:.1f} dB")
        return "\n".join(lines)


def _check(plan: Plan) -> None:
    """Raise PlanError for what is no plan."""

    def need(fulfilled: bool, what: str) -> None:
        if not fulfilled:
            raise PlanError(f"no plan: {what}")

    need(1 <= _whole(plan.steps) <= MAX_STEPS, f"steps must be 1 to {MAX_STEPS}, not {plan.steps}")
    need(len(plan.weights) == plan.steps, f"{plan.steps} steps need as many rows, not {len(plan.weights)}")
    widths = {len(row) for row in plan.weights}
    need(len(widths) == 1, "its rows differ in length")
    need(2 <= min(widths) <= MAX_VALUES + 1, f"a row has 2 to {MAX_VALUES + 1} weights")
    need(all(math.isfinite(w) for row in plan.weights for w in row), "a weight is not finite")
    computed = list(plan.computed)
    need(computed == sorted(set(computed)), "computed steps must ascend")
    need(computed[:1] == [0], "step 0 must be computed")
    need(computed[-1] < plan.steps, f"step {computed[-1]} is computed, of {plan.steps}")
    before = 0
    for step, (own, *others) in enumerate(plan.weights):
        is_computed = step in computed
        need((own != 0) == is_computed, f"step {step}: only computed steps have a value of their own")
        need(is_computed or any(others), f"step {step} is made of nothing")
        need(not any(others[before:]), f"step {step} is made of more values than were computed before it")
        before += is_computed
    if plan.timesteps is not None:
        times = plan.timesteps
        need(len(times) == plan.steps, f"{plan.steps} steps need as many timesteps, not {len(times)}")
        need(all(math.isfinite(t) for t in times), "a timestep is not finite")
        moves = {(b > a) - (b < a) for a, b in itertools.pairwise(times)}
        need(moves <= {1} or moves <= {-1}, "timesteps must move one way")
    need(plan.level in get_args(Level), f"level must be one of {', '.join(get_args(Level))}")
    blocks = (_whole(plan.fn_compute_blocks), _whole(plan.bn_compute_blocks))
    need(min(blocks) >= 0, "Fn and Bn must not be negative")
    need(plan.level != "output" or blocks == (0, 0), 'level "output" has Fn = Bn = 0')
    for name in ("model", "scheduler"):
        value = getattr(plan, name)
        need(value is None or isinstance(value, str), f"{name} must be a name")
    need(isinstance(plan.method, str), "method must be text")
    need(_whole(plan.runs) >= 0, "runs must not be negative")
    need(plan.quality is None or isinstance(plan.quality, Quality), "quality must be a Quality")


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise PlanError(f"no plan: {value!r} is no whole number")
    return value


def _readable(fields: Mapping[str, Any]) -> str:
    """JSON with one line for each field, and for each row of weights."""
    lines = []
    for name, value in fields.items():
        if name == "weights":
            rows = ",\n  ".join(json.dumps(row) for row in value)
            lines.append(f'"weights": [\n  {rows}\n ]')
        else:
            lines.append(f"{json.dumps(name)}: {json.dumps(value)}")
    return "{\n " + ",\n ".join(lines) + "\n}\n"


def as_plans(value: Plan | Sequence[Plan]) -> tuple[Plan, ...]:
    """One plan or several, as a tuple. Raises PlanError for anything else.

    Example:
        >>> from fxcache import Plan
        >>> from fxcache.plans.plan import as_plans
        >>> len(as_plans(Plan(steps=1, computed=(0,), weights=((1, 0),))))
        1
    """
    plans = (value,) if isinstance(value, Plan) else tuple(value)
    if not plans or not all(isinstance(p, Plan) for p in plans):
        raise PlanError(f"{value!r} is no plan")
    return plans
