"""What a random model is made of, and what happens to it: one word for each axis."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st


@dataclass(frozen=True)
class Spec:
    """A small model and a sequence of calls. `AXES` lists the words that each axis may be.

    calls: one digit for each call, the trajectory that it belongs to ("0011" is two, one after the other).
    change_at: the calls before which the outside change of `outside` happens.
    """

    container: str = "module_list"
    blocks: int = 4
    streams: str = "one"
    result: str = "tensor"
    in_place: str = "none"
    context: str = "none"
    placed: str = "around"
    caller: str = "no_grad"
    option: str = "none"
    option_changes: bool = False
    option_to: str = "glue"
    state: str = "none"
    outside: str = "none"
    change_at: tuple[int, ...] = ()
    glue: str = "none"
    sizes: str = "fixed"
    dtype: str = "float32"
    time: str = "tensor"
    passing: str = "keywords"
    named: bool = False
    calls: str = "000"
    seed: int = 0

    def __str__(self) -> str:
        """Only what is not the default, so that a failure can be read (and pasted)."""
        fields = dataclasses.fields(self)
        given = {f.name: getattr(self, f.name) for f in fields if getattr(self, f.name) != f.default}
        return f"Spec({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    __repr__ = __str__


AXES: dict[str, tuple[Any, ...]] = {
    "container": (
        "module_list", "sequential", "module_dict", "attributes", "plain_list", "list_of_dicts",
        "nested", "repeated", "list_of_module_dicts", "two_lists", "helper_object", "sliced",
    ),
    "blocks": (4, 3, 5),
    "streams": ("one", "dual", "dual_then_single", "long_skips"),
    "result": ("tensor", "tuple", "nested_tuple", "dict", "dataclass", "list", "named_tuple"),
    "in_place": (
        "none", "iadd", "mul_", "slice", "second_stream", "returns_none", "glue", "callers_tensor", "view",
        "out", "index_put", "foreach", "glue_view",
    ),
    "context": (
        "none", "autocast", "autocast_off", "no_grad", "inference_mode", "default_dtype", "sdpa_kernel",
    ),
    "placed": ("around", "each_block", "decorator", "outer"),
    "caller": ("no_grad", "inference_mode", "autocast", "grad"),
    "option": (
        "none", "dict", "functions", "closures", "partial", "bound_method", "slots", "dataclass_of_tensors",
        "numpy", "six_levels", "number", "mode", "plain_object", "callable_with_attributes",
        "named_tuple", "enum", "set", "range", "uuid", "nested_closure", "defaults", "ordered_dict",
        "torch_generator",
    ),
    "option_changes": (False, True),
    "option_to": ("glue", "blocks"),
    "state": (
        "none", "memo_attribute", "memo_dict", "lru_cache", "lru_method", "counter", "unread_counter",
        "log", "block_counter", "last_input", "random", "helper_counter", "global_counter",
    ),
    "outside": (
        "none", "attribute", "buffer_replaced", "buffer_written", "weights_written", "hook", "inner_hook",
        "hook_removed", "forward_patched", "class_patched", "block_replaced", "training",
        "helper_attribute", "config_entry", "class_attribute", "global",
        "parameter_replaced", "weights_swapped", "tensor_attribute", "tensor_attribute_written",
    ),
    "glue": (
        "none", "adds", "pad", "interpolate", "item", "branch_on_number", "storage_swap", "roll", "split",
        "branch_on_sample", "count",
    ),
    "sizes": ("fixed", "tokens", "batch"),
    "dtype": ("float32", "bfloat16", "float64"),
    "time": ("tensor", "number", "zero_dim"),
    "passing": ("keywords", "positional"),
    "named": (False, True),
    "calls": ("000", "0000000", "000111", "010101", "0001110"),
}  # fmt: skip
"""The words of each axis, the plainest first."""


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """A model that is plain in most ways and odd in some."""
    odd = st.integers(0, 2)
    chosen = {
        name: draw(st.sampled_from(words)) if draw(odd) == 2 else words[0] for name, words in AXES.items()
    }
    calls = chosen["calls"]
    when = draw(st.sets(st.integers(1, len(calls) - 1), min_size=1, max_size=2))
    return canonical(Spec(**chosen, change_at=tuple(sorted(when)), seed=draw(st.integers(0, 3))))


def canonical(spec: Spec) -> Spec:
    """`spec` without words that say nothing or cannot go together."""
    changes: dict[str, Any] = {}
    two = spec.streams in ("dual", "dual_then_single")
    if spec.in_place == "second_stream" and not two:
        changes["in_place"] = "iadd"
    if two and spec.result == "tensor" and spec.in_place != "second_stream":
        changes["result"] = "tuple"
    if spec.in_place in ("returns_none", "second_stream"):
        changes["result"] = "tensor"
    if spec.container == "repeated" and spec.streams == "dual_then_single":
        changes["streams"] = "dual"
        if spec.result == "tensor" and spec.in_place not in ("returns_none", "second_stream"):
            changes["result"] = "tuple"
    if spec.container in ("two_lists", "sliced") and spec.streams == "dual_then_single":
        changes["container"] = "module_list"
    if spec.dtype != "float32" and spec.container in ("plain_list", "list_of_dicts", "helper_object"):
        changes["dtype"] = "float32"
    if spec.time != "tensor" and spec.glue == "item":
        changes["time"] = "tensor"
    if spec.context == "none":
        changes["placed"] = "around"
    if spec.option == "none":
        changes.update(option_changes=False, option_to="glue")
    if spec.outside == "none":
        changes["change_at"] = ()
    return dataclasses.replace(spec, **changes)
