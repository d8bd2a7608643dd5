"""Plans at several speedups, and what each was measured to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import PlanError
from ..plans import Plan, Quality

Plans = Plan | Mapping[str, Plan]


@dataclass(frozen=True)
class Frontier:
    """Plans from the least speedup to the greatest; each one, or one for each of a pipeline's denoisers.

    Example:
        >>> import fxcache
        >>> from fxcache.plans import Quality
        >>> slow = fxcache.plan(28, 2).replace(quality=Quality(57, 47, 4))
        >>> fast = fxcache.plan(28, 4).replace(quality=Quality(40, 30, 4))
        >>> frontier = fxcache.Frontier((slow, fast))
        >>> print(frontier)
        speedup  computed   PSNR  worst 5%
          2.00x  14 of 28   57.0      47.0
          4.00x   7 of 28   40.0      30.0
        >>> frontier.best(psnr=50).speedup
        2.0
    """

    plans: tuple[Plans, ...]

    def best(self, psnr: float | None = None, worst: float | None = None) -> Plans:
        """The fastest plan that was measured to reach this, in dB: on average, in the worst 5%.

        Raises:
            PlanError: none does, or none was measured.

        Example:
            >>> import fxcache
            >>> from fxcache.plans import Quality
            >>> plan = fxcache.plan(28, 2).replace(quality=Quality(psnr=57, worst=47, runs=4))
            >>> fxcache.Frontier((plan,)).best(worst=50)
            Traceback (most recent call last):
            fxcache.errors.PlanError: no plan reaches worst=50 dB. ...
        """
        fitting = [p for p in self.plans if reaches(quality_of(p), psnr, worst)]
        if not fitting:
            limits = {"psnr": psnr, "worst": worst}
            asked = ", ".join(f"{name}={v:g} dB" for name, v in limits.items() if v is not None)
            raise PlanError(f"no plan reaches {asked or 'what was not measured'}", "Ask for less speedup.")
        return max(fitting, key=speedup_of)

    def plot(self, path: str | Path) -> Path:
        """Draw PSNR against speedup into a file. Needs matplotlib.

        Example:
            >>> import fxcache
            >>> from fxcache.plans import Quality
            >>> plan = fxcache.plan(28, 2).replace(quality=Quality(psnr=57, worst=47, runs=4))
            >>> fxcache.Frontier((plan,)).plot("frontier.png").name
            'frontier.png'
        """
        import matplotlib.figure

        figure = matplotlib.figure.Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        measured = [(speedup_of(p), q) for p in self.plans if (q := quality_of(p)) is not None]
        times = [speedup for speedup, _ in measured]
        axes.plot(times, [q.psnr for _, q in measured], "o-", label="mean")
        axes.plot(times, [q.worst for _, q in measured], "o--", label="worst 5%")
        axes.set(xlabel="times fewer FLOPs of the denoiser", ylabel="PSNR to the plain run, dB")
        axes.legend()
        figure.savefig(path)
        return Path(path)

    def __str__(self) -> str:
        lines = ["speedup  computed   PSNR  worst 5%"]
        for plans in self.plans:
            done, steps = _counts(plans)
            found = quality_of(plans)
            measured = "     -         -" if found is None else f"{found.psnr:6.1f} {found.worst:9.1f}"
            lines.append(f"{steps / done:6.2f}x {f'{done} of {steps}':>9} {measured}")
        return "\n".join(lines)


def speedup_of(plans: Plans) -> float:
    """Steps over computed steps, of all denoisers.

    Example:
        >>> import fxcache
        >>> from fxcache.calibration.frontier import speedup_of
        >>> speedup_of({"transformer": fxcache.plan(8, 2), "transformer_2": fxcache.plan(12, 2)})
        2.0
    """
    done, steps = _counts(plans)
    return steps / done


def quality_of(plans: Plans) -> Quality | None:
    """What was measured with these plans, together.

    Example:
        >>> import fxcache
        >>> from fxcache.calibration.frontier import quality_of
        >>> quality_of(fxcache.plan(8, 2)) is None
        True
    """
    return each(plans)[0].quality


def each(plans: Plans) -> tuple[Plan, ...]:
    """The plan, or those of all denoisers.

    Example:
        >>> import fxcache
        >>> from fxcache.calibration.frontier import each
        >>> len(each(fxcache.plan(8, 2)))
        1
    """
    return (plans,) if isinstance(plans, Plan) else tuple(plans.values())


def reaches(found: Quality | None, psnr: float | None, worst: float | None) -> bool:
    """Whether what was measured is at least what is asked; nothing measured reaches nothing.

    Example:
        >>> from fxcache.calibration.frontier import reaches
        >>> from fxcache.plans import Quality
        >>> reaches(Quality(50, 40, 4), psnr=45, worst=41)
        False
    """
    if found is None:
        return False
    return (psnr is None or found.psnr >= psnr) and (worst is None or found.worst >= worst)


def _counts(plans: Plans) -> tuple[int, int]:
    found = each(plans)
    return sum(len(p.computed) for p in found), sum(p.steps for p in found)
