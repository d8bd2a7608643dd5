"""What Inductor makes of a function for a GPU that is not there: source, kernels, machine code.

with target_gpu("sm_90"):
    device = FakeDevice()
    (stage,) = generated(function, device.tree(inputs), device)
    print(stage.source, stage.launches())
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._functorch import config as functorch_config
from torch._inductor import config as inductor_config
from torch._inductor.codecache import PyCodeCache
from torch._inductor.output_code import CompiledFxGraph
from torch._inductor.runtime.triton_heuristics import CachingAutotuner
from torch.fx import GraphModule, Node

from fxcache.torch_private import LAUNCHED

from .fake_device import FakeDevice


@dataclass(frozen=True)
class Generated:
    """One graph that Inductor compiled.

    graph: what it was given: functional ATen operators, without the writes to inputs that follow.
    compiled: what it made. static: numbers of the inputs whose addresses do not change. kernels: those of
    Triton by name; the `compile_results` of each have the machine code.
    """

    graph: GraphModule
    compiled: CompiledFxGraph
    static: frozenset[int]
    kernels: dict[str, CachingAutotuner]

    @property
    def source(self) -> str:
        """The Python code that allocates, launches kernels and calls libraries."""
        return self.compiled.source_code

    @property
    def body(self) -> str:
        """The part of `source` that runs on each call."""
        without_kernels = re.sub(r"'''.*?'''", "", self.source, flags=re.S)
        return re.split(r"^def (?:get_args|benchmark_compiled_module)\b", without_kernels, flags=re.M)[0]

    @property
    def results(self) -> list[Any]:
        """The outputs, as fake tensors."""
        given = self.graph.graph.output_node().args[0]
        return [n.meta["val"] if isinstance(n, Node) else n for n in given]  # type: ignore[union-attr]

    def launches(self) -> int:
        """How many kernels a call starts on the device: of Triton, and of libraries.

        A library call is counted once, however many kernels it is.
        """
        return len(LAUNCHED.findall(self.body))


def generated(
    function: Callable[..., Any], inputs: Sequence[Any], device: FakeDevice, **options: Any
) -> list[Generated]:
    """Compile `function(*inputs)`, inputs on a fake device, for the GPU of `target_gpu`; nothing runs.

    options: of `torch.compile`. One `Generated` for each graph: one, unless the function breaks it.
    """
    with torch.no_grad(), handing_over(device) as found:
        torch.compile(function, **{"fullgraph": True, **options})(*inputs)
    return found


@contextlib.contextmanager
def handing_over(device: FakeDevice) -> Iterator[list[Generated]]:
    """Within, what Inductor compiles is collected. To call it gives fake results and runs nothing.

    Where its inputs stand for real tensors it runs on these (see interpreting.py).
    """
    found: list[Generated] = []
    made = {"__init__": CompiledFxGraph.__init__, "__call__": CompiledFxGraph.__call__}
    signature = inspect.signature(made["__init__"])

    def init(self: CompiledFxGraph, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(self, *args, **kwargs).arguments
        made["__init__"](self, *args, **kwargs)
        path = given["graph"].cache_path
        module = next(m for m in reversed(PyCodeCache.modules) if m.__file__ == path)
        kernels = {n: v for n, v in vars(module).items() if isinstance(v, CachingAutotuner)}
        found.append(Generated(given["gm"], self, frozenset(given["static_input_idxs"]), kernels))

    def call(self: CompiledFxGraph, inputs: Sequence[Any]) -> Any:
        reals = [device.real(x) if isinstance(x, Tensor) else x for x in inputs]
        if any(r is None for r in reals):
            one = next(g for g in found if g.compiled is self)
            return [device.like(r) if isinstance(r, Tensor) else r for r in one.results]
        return [
            device.like(r, real=True) if isinstance(r, Tensor) else r for r in made["__call__"](self, reals)
        ]

    caches = (
        inductor_config.patch(fx_graph_cache=False, fx_graph_remote_cache=False),
        functorch_config.patch(enable_autograd_cache=False),
    )
    try:
        CompiledFxGraph.__init__, CompiledFxGraph.__call__ = init, call  # type: ignore[method-assign]
        with caches[0], caches[1]:
            yield found
    finally:
        for name, value in made.items():
            setattr(CompiledFxGraph, name, value)
