"""TensorRT: every stage of the cached graph as an engine, the decision on the host.

torch-tensorrt has no converter for the conditional operator and would leave both branches in PyTorch.
So each stage is compiled on its own: its bookkeeping, float64 and its writes to the state stay in
PyTorch beside the engine, and a Python `if` on the decision picks the next stage.
"""

from .api import compile_tensorrt, engine_report, export_tensorrt, load_tensorrt, refit
from .compiling import Lowered, coverage_of
from .lowering import Coverage
from .options import TensorRTOptions

__all__ = [
    "Coverage",
    "Lowered",
    "TensorRTOptions",
    "compile_tensorrt",
    "coverage_of",
    "engine_report",
    "export_tensorrt",
    "load_tensorrt",
    "refit",
]
