"""A sweep: the settings that a benchmark compares, read from YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..config import CacheConfig, as_config
from ..errors import FxcacheError
from ..notation import NONE
from .errors import SweepError
from .solvers import SOLVERS

SHIPPED = Path(__file__).parent / "sweeps"


@dataclass(frozen=True)
class Setting:
    """One row of the tables.

    steps: None for the run's number of steps. solver: None for the pipeline's own.
    """

    name: str
    config: CacheConfig
    steps: int | None = None
    solver: str | None = None

    @property
    def plain(self) -> bool:
        """Whether it runs the model as it is."""
        return not self.config.enabled


BASELINE = Setting(NONE, CacheConfig(enabled=False))


def fewer_steps(steps: int, solver: str | None = None) -> Setting:
    """The model as it is, with fewer steps, of another solver if wanted: what a cache has to beat."""
    name = f"{NONE}@{steps}" + (f"-{solver}" if solver is not None else "")
    return Setting(name, CacheConfig(enabled=False), steps, solver)


def solver_of(name: str) -> str | None:
    """The solver of a row of fewer steps, by its name; None for the pipeline's own."""
    steps = name.removeprefix(f"{NONE}@") if name.startswith(NONE) else ""
    return steps.partition("-")[2] or None


@dataclass(frozen=True)
class Sweep:
    """Settings in order, the baseline first.

    equal_flops: add fewer plain steps at equal FLOPs. solvers: and as many steps of these.
    """

    name: str
    settings: tuple[Setting, ...]
    equal_flops: bool = True
    solvers: tuple[str, ...] = ()


def load_sweep(name: str) -> Sweep:
    """Read a shipped sweep by its name, or a YAML file by its path.

    The file holds `settings:`, a list of the notation or of mappings, and optionally `equal_flops:` and
    `solvers:`, a list of "dpm++" and "unipc" whose rows of fewer steps are added. A mapping is of
    `CacheConfig`'s fields, or `plan:` with the path of a plan's file, taken from where the sweep lies; and
    `name:` if wanted. Raises `SweepError`.
    """
    shipped = SHIPPED / f"{name}.yaml"
    path = shipped if shipped.is_file() else Path(name)
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
        raise SweepError(name, f"no such file; name a YAML file, or one of {names}")
    try:
        fields = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise SweepError(name, f"not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(fields, Mapping) or not isinstance(fields.get("settings"), list):
        raise SweepError(name, "it must hold 'settings:', a list of settings in the notation")
    settings = _distinct(name, (_setting(name, entry, path.parent) for entry in fields["settings"]))
    solvers = tuple(fields.get("solvers", ()))
    unknown = [s for s in solvers if s not in SOLVERS]
    if unknown:
        raise SweepError(name, f"no solver {unknown[0]!r}; there are {', '.join(SOLVERS)}")
    return Sweep(path.stem, settings, bool(fields.get("equal_flops", True)), solvers)


def _setting(sweep: str, entry: Any, folder: Path) -> Setting:
    values = dict(entry) if isinstance(entry, Mapping) else entry
    given = values.pop("name", None) if isinstance(values, dict) else None
    try:
        if isinstance(values, dict) and values.keys() == {"plan"}:
            values = folder / str(values["plan"])
        config = as_config(values)
    except FxcacheError as error:
        raise SweepError(sweep, str(error)) from error
    if not config.enabled:
        return BASELINE
    name = str(given or config)
    if not set(name).isdisjoint("/\\\0") or name.startswith((".", NONE)):
        raise SweepError(sweep, f"the setting {name!r} needs a 'name' that can be a folder's")
    return Setting(name, config)


def _distinct(sweep: str, settings: Iterable[Setting]) -> tuple[Setting, ...]:
    found: dict[str, Setting] = {BASELINE.name: BASELINE}
    for setting in settings:
        if found.setdefault(setting.name, setting) != setting:
            raise SweepError(sweep, f"two settings are named {setting.name!r}")
    return tuple(found.values())
