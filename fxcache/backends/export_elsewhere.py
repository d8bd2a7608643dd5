"""Build here, deploy there: a package for a GPU, written on a machine without one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass
from torch.fx import GraphModule

from ..errors import ExportError
from ..package.aoti import Elsewhere, export_aoti
from ..runtime.cached_transformer import CachedTransformer
from ..torch_private import AbsentWeights, aoti_write, pytree
from .absent_gpu import require_target, target_gpu
from .driver_stub import linkable_driver

DEVICE = "cuda:0"
# Inductor would write small weights into the code as numbers, and read them for that.
OPTIONS = {"always_keep_tensor_constants": True}
OF_THE_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
OF_ANY_DEVICE = torch.ops.aten.scaled_dot_product_attention.default


def export_elsewhere(
    cached: CachedTransformer,
    target: Path,
    example_inputs: Mapping[str, Any],
    dynamic: bool,
    options: Mapping[str, Any],
    arch: str,
) -> Path:
    """As `export_aoti`, for a GPU of another machine. The model and the example are on the CPU.

    arch: a key of `absent_gpu.GPUS`, as "sm_90".

    Raises:
        BackendError, CudaBuildError: as `target_gpu`. ExportError: something is not on the CPU, or is another
        thing on a GPU; or there is no CUDA toolkit, whose headers the compiler needs.
    """
    gpu = require_target(arch)
    _require_all_on_cpu(cached, example_inputs)
    header = cuda_header()
    if header is None:
        why = "AOTInductor compiles against a CUDA toolkit and finds no cuda.h: set CUDA_HOME to its folder"
        raise ExportError(type(cached.original).__name__, why)

    def write(program: ExportedProgram, path: Path, configuration: Mapping[str, Any]) -> None:
        with target_gpu(arch), linkable_driver(header):
            weights = move_to_cuda(program)
            with weights.written():
                aoti_write(program, path, {**OPTIONS, **configuration})

    elsewhere = Elsewhere(DEVICE, f"{gpu.major}.{gpu.minor}", write)
    return export_aoti(cached, target, example_inputs, dynamic, options, elsewhere)


def _require_all_on_cpu(cached: CachedTransformer, example_inputs: Mapping[str, Any]) -> None:
    name, config = type(cached.original).__name__, cached.cache_config
    given = [leaf for leaf in pytree.tree_leaves(dict(example_inputs)) if isinstance(leaf, torch.Tensor)]
    tensors = (*cached.original.parameters(), *cached.original.buffers(), *given)
    others = sorted({str(t.device) for t in tensors if t.device.type != "cpu"})
    if others:
        raise ExportError(
            name, f"arch= takes what is on the CPU, and it lies on {', '.join(others)}: move it"
        )
    if config.history_offload:
        raise ExportError(name, "history_offload=True keeps state beside a GPU: export it on one")
    if torch.is_autocast_enabled("cpu"):
        why = "autocast of the CPU casts other operators than that of CUDA: use model.to(dtype) instead"
        raise ExportError(name, why)


def cuda_header() -> Path | None:
    """The toolkit's declarations of the driver's functions; None where there is no toolkit.

    torch looks for one in `CUDA_HOME`, beside nvcc, and in /usr/local.
    """
    from torch.utils.cpp_extension import include_paths  # says so on import where there is no GPU

    try:
        folders = include_paths("cuda")
    except OSError:  # there is no toolkit
        return None
    files = (Path(folder, "cuda.h") for folder in folders)
    return next((file for file in files if file.is_file()), None)


def move_to_cuda(program: ExportedProgram) -> AbsentWeights:
    """Make a program of the CPU one of a GPU that is not there, in place; returns what has its weights."""
    for part in program.graph_module.modules():
        if isinstance(part, GraphModule):
            for_any_device(part)
    mode = next(
        n.meta["val"].fake_mode for n in program.graph.find_nodes(op="placeholder") if "val" in n.meta
    )
    weights = AbsentWeights(mode, DEVICE)
    for name, value in program.state_dict.items():
        stand_in = weights.of(value)
        is_parameter = isinstance(value, torch.nn.Parameter)
        program.state_dict[name] = torch.nn.Parameter(stand_in, False) if is_parameter else stand_in
    for name, value in program.constants.items():
        if isinstance(value, torch.Tensor):
            program.constants[name] = weights.of(value)
    example = AbsentWeights(mode, DEVICE)
    program.example_inputs = pytree.tree_map_only(torch.Tensor, example.of, program.example_inputs)
    move_to_device_pass(program, DEVICE)
    return weights


def for_any_device(part: GraphModule) -> None:
    """Attention as the operator that each device makes its own; shapes that may need a copy on another."""
    graph = part.graph
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.view.default):
        node.target = torch.ops.aten.reshape.default
    for node in graph.find_nodes(op="call_function", target=OF_THE_CPU):
        names = ("query", "key", "value", "dropout_p", "is_causal")
        given: dict[str, Any] = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        tensors = [given.pop(name) for name in names[:3]]
        with graph.inserting_before(node):
            call = graph.call_function(OF_ANY_DEVICE, (*tensors,), given)
        call.meta = {**node.meta, "val": node.meta["val"][0]}
        for item in list(node.users):  # the result, and unused what a gradient would need
            if item.args[1] == 0:
                item.replace_all_uses_with(call)
            graph.erase_node(item)
        graph.erase_node(node)
    part.recompile()
