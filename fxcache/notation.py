"""The benchmark's notation of a cache setting, both ways: `F8B0_W8M0MC3_T1O1_R0.12`.

F Fn_compute_blocks, B Bn_compute_blocks, W max_warmup_steps, M max_cached_steps (0: no limit),
MC max_continuous_cached_steps (0: no limit), T TaylorSeer on or off, O its order, R threshold.
`C0_Q0_NONE` is no cache. What the benchmark has no letter for follows as parts of its own:
`_I2` warmup interval, `_A0.5` accumulated diff, `_S1101d` / `_S1101s` steps mask (dynamic, static),
`_X{...}` another forecaster, `_LO` level "output", `_E` error feedback, `_BE` batch "every", `_N28` steps
of a run, `_K1` steps at its end that compute, `_Z0.15-0.95` shares of it between which steps may be hits,
`_Hfloat8` dtype of the history, `_HO` in host memory, `_G4` every fourth token compared,
`_D{...}` another policy, `_U{"uncond":"cond"}` contexts that follow others.

`2x`, `3x` and `4x` compute every second, third or fourth step and pay back what that makes wrong, for any
number of steps; `2.5x@28` is `fxcache.plan` of 28 steps at that speedup. `few@8` is for models of few steps,
4 to 10: after two steps every second one is a hit, but never the last.

`P28K11` is `fxcache.plan` of 28 steps that computes 11 of them. Other plans are written with something
behind it that tells them apart, `P28K11_1f0c9d2e`, and are read from their files only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from .errors import NotationError
from .forecasters import TaylorSeer, forecaster_from_dict, forecaster_to_dict
from .plans.formula import plan as by_formula
from .plans.plan import Plan
from .policies import DBCache, FixedInterval, policy_from_dict, policy_to_dict

NONE = "C0_Q0_NONE"
PLAN_PATTERN = re.compile(r"P(?P<P>\d{1,3})K(?P<K>\d{1,3})")
PRESET = re.compile(r"(?:(?P<few>few)|(?P<speedup>\d+(?:\.\d+)?)x)(?:@(?P<steps>\d+))?")
INTERVALS = (2, 3, 4)  # speedups that need no number of steps
NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?"
PATTERN = re.compile(
    r"F(?P<F>\d+)B(?P<B>\d+)_W(?P<W>\d+)M(?P<M>\d+)MC(?P<MC>\d+)_T(?P<T>[01])O(?P<O>\d+)"
    rf"_R(?P<R>{NUMBER})(?:_I(?P<I>\d+))?(?:_A(?P<A>{NUMBER}))?(?:_S(?P<S>[01]+)(?P<P>[ds]))?"
    r"(?:_X(?P<X>\{.*?\}))?(?P<L>_LO)?(?P<E>_E)?(?P<BE>_BE)?"
    rf"(?:_N(?P<N>\d+))?(?:_K(?P<K>\d+))?(?:_Z(?P<Z>{NUMBER})-(?P<Z2>{NUMBER}))?"
    r"(?:_H(?P<H>[a-z]\w*?))?(?P<HO>_HO)?(?:_G(?P<G>\d+))?(?:_D(?P<D>\{.*?\}))?"
    r"(?:_U(?P<U>\{.*\}))?"
)


def parse(text: str) -> dict[str, Any]:
    """Fields of a `CacheConfig` from its notation.

    Raises:
        NotationError: `text` is not in the notation, or `_X`, `_D` or `_U` describe nothing.

    Example:
        >>> from fxcache.notation import parse
        >>> fields = parse("F8B0_W8M0MC3_T1O1_R0.12")
        >>> fields["fn_compute_blocks"], fields["max_cached_steps"], fields["residual_diff_threshold"]
        (8, None, 0.12)
        >>> parse("F8")
        Traceback (most recent call last):
        fxcache.errors.NotationError: cannot read 'F8' as a cache setting: ...
    """
    if text == NONE:
        return {"enabled": False}
    preset = PRESET.fullmatch(text)
    if preset is not None:
        return _preset(text, preset)
    planned = PLAN_PATTERN.fullmatch(text)
    if planned is not None:
        return _planned(text, int(planned["P"]), int(planned["K"]))
    match = PATTERN.fullmatch(text)
    if match is None:
        if text.startswith("P"):
            raise NotationError(text, "it names a plan; give the plan's file, as in 'plan.json'")
        raise NotationError(text, "it does not follow the pattern")
    part = match.groupdict()
    fields: dict[str, Any] = {
        "fn_compute_blocks": int(part["F"]),
        "bn_compute_blocks": int(part["B"]),
        "max_warmup_steps": int(part["W"]),
        "max_cached_steps": int(part["M"]) or None,
        "max_continuous_cached_steps": int(part["MC"]) or None,
        "residual_diff_threshold": float(part["R"]),
    }
    if part["T"] == "1":
        if part["O"] == "0":
            raise NotationError(text, "TaylorSeer (T1) needs an order of at least 1")
        fields["forecaster"] = TaylorSeer(order=int(part["O"]))
    if part["I"]:
        fields["warmup_interval"] = int(part["I"])
    if part["A"]:
        fields["max_accumulated_residual_diff"] = float(part["A"])
    if part["S"]:
        fields["steps_mask"] = part["S"]
        fields["steps_mask_policy"] = "static" if part["P"] == "s" else "dynamic"
    try:
        if part["X"]:
            fields["forecaster"] = forecaster_from_dict(json.loads(part["X"]))
        if part["D"]:
            fields["policy"] = policy_from_dict(json.loads(part["D"]))
        if part["U"]:
            fields["follow"] = json.loads(part["U"])
    except ValueError as error:
        raise NotationError(text, str(error)) from error
    if part["L"]:
        fields["level"] = "output"
    if part["E"]:
        fields["feedback"] = True
    if part["BE"]:
        fields["batch"] = "every"
    if part["H"]:
        fields["history_dtype"] = part["H"]
    if part["HO"]:
        fields["history_offload"] = True
    for letter, name in (("N", "steps"), ("K", "last_compute_steps"), ("G", "signal_stride")):
        if part[letter]:
            fields[name] = int(part[letter])
    if part["Z"]:
        fields["start_percent"], fields["end_percent"] = float(part["Z"]), float(part["Z2"])
    return fields


def _preset(text: str, match: re.Match[str]) -> dict[str, Any]:
    steps = int(match["steps"]) if match["steps"] else None
    if match["few"]:
        if steps is None:
            raise NotationError(text, "it needs the number of steps, as in 'few@8'")
        return {**_every(2), "steps": steps, "last_compute_steps": 1}
    speedup = float(match["speedup"])
    if steps is None and speedup not in INTERVALS:
        raise NotationError(text, f"a speedup but 2, 3 and 4 needs the number of steps, as in '{text}@28'")
    if steps is None:
        return _every(int(speedup))
    try:
        plan = by_formula(steps, speedup=speedup)
    except ValueError as error:
        raise NotationError(text, str(error).rstrip(".")) from error
    return {"plans": (plan,), "level": "output", "fn_compute_blocks": 0}


def _every(interval: int) -> dict[str, Any]:
    """One of so many steps computes; measured in bench/RESULTS.md, "Presets"."""
    return {
        "fn_compute_blocks": 0,
        "level": "output",
        "max_warmup_steps": 2,
        "policy": FixedInterval(interval),
        "forecaster": TaylorSeer(order=1),
        "feedback": True,
    }


def _planned(text: str, steps: int, count: int) -> dict[str, Any]:
    if not 2 <= count <= steps:
        raise NotationError(text, "a plan of P steps computes K of them, 2 to P")
    return {"plans": (_by_formula(steps, count),), "level": "output", "fn_compute_blocks": 0}


def write(fields: Mapping[str, Any]) -> str:
    """The notation of a `CacheConfig`, of which these are all fields; `parse` reads it back.

    Example:
        >>> from fxcache import CacheConfig
        >>> from fxcache.notation import write
        >>> write(vars(CacheConfig(fn_compute_blocks=1, max_warmup_steps=4, warmup_interval=2)))
        'F1B0_W4M0MC0_T0O1_R0.08_I2'
    """
    if not fields["enabled"]:
        return NONE
    if fields["plans"]:
        return "+".join(map(_plan_name, fields["plans"]))
    taylor = fields["forecaster"] if isinstance(fields["forecaster"], TaylorSeer) else None
    plain = taylor is not None and taylor == TaylorSeer(order=taylor.order)
    order = taylor.order if taylor is not None and plain else 1
    text = (
        f"F{fields['fn_compute_blocks']}B{fields['bn_compute_blocks']}"
        f"_W{fields['max_warmup_steps']}M{fields['max_cached_steps'] or 0}"
        f"MC{fields['max_continuous_cached_steps'] or 0}"
        f"_T{int(plain)}O{order}_R{_number(fields['residual_diff_threshold'])}"
    )
    if fields["warmup_interval"] != 1:
        text += f"_I{fields['warmup_interval']}"
    if fields["max_accumulated_residual_diff"] is not None:
        text += f"_A{_number(fields['max_accumulated_residual_diff'])}"
    if fields["steps_mask"] is not None:
        text += f"_S{''.join(map(str, fields['steps_mask']))}{fields['steps_mask_policy'][0]}"
    if fields["forecaster"] is not None and not plain:
        text += "_X" + json.dumps(forecaster_to_dict(fields["forecaster"]), separators=(",", ":"))
    text += "_LO" if fields["level"] == "output" else ""
    text += "_E" if fields["feedback"] else ""
    text += "_BE" if fields["batch"] == "every" else ""
    text += f"_N{fields['steps']}" if fields["steps"] is not None else ""
    text += f"_K{fields['last_compute_steps']}" if fields["last_compute_steps"] else ""
    if fields["start_percent"] or fields["end_percent"] != 1:
        text += f"_Z{_number(fields['start_percent'])}-{_number(fields['end_percent'])}"
    text += f"_H{fields['history_dtype']}" if fields["history_dtype"] != "model" else ""
    text += "_HO" if fields["history_offload"] else ""
    text += f"_G{fields['signal_stride']}" if fields["signal_stride"] != 1 else ""
    if fields["policy"] != DBCache():
        text += "_D" + json.dumps(policy_to_dict(fields["policy"]), separators=(",", ":"))
    if fields["follow"]:
        text += "_U" + json.dumps(dict(fields["follow"]), separators=(",", ":"))
    return text


def _plan_name(given: Plan) -> str:
    name = f"P{given.steps}K{len(given.computed)}"
    if len(given.computed) > 1 and given.steps > 1 and given == _by_formula(given.steps, len(given.computed)):
        return name
    digest = hashlib.sha256(json.dumps(given.to_dict(), sort_keys=True).encode()).hexdigest()
    return f"{name}_{digest[:8]}"


def _by_formula(steps: int, count: int) -> Plan:
    return by_formula(steps, speedup=steps / count)


def _number(value: float) -> str:
    whole = float(value)
    text = repr(int(whole) if whole.is_integer() and whole < 1e15 else whole)
    return text.replace("e+", "e")
