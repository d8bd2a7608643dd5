"""`CachedGraph`: a transformed graph to look at, as text and as a drawing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch.fx import GraphModule

from ..errors import DrawingError
from ..ir.draw import draw
from ..ir.printer import render
from ..ir.program import Program
from .stats import amount


def _unknown() -> tuple[Mapping[str, int], int | None]:
    return {}, None


@dataclass(frozen=True)
class CachedGraph:
    """A transformed graph to look at.

    `print` it; `show` it; or take `module`, the outer graph: its submodules are the stages, its last inputs
    the state.

    measure: FLOPs of each stage and bytes of state, at the sizes of the captured call.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> inputs = {"src": torch.randn(3, 1, 8)}
        >>> cached = fxcache.transform(model, "F1B0_W4M0MC3_T1O1_R0.12", example_inputs=inputs)
        >>> print(cached.graph)
        def cached(src: f32[s0, 1, 8], state):
            # settings: F1B0_W4M0MC3_T1O1_R0.12
            # state: clock_0: f32[4, 11], log_0: f32[2, 1024], sample_0: f32[s0, 1, 8], ...
            layers_0 = self.layers.0(src) ...
        >>> list(cached.graph.module.named_children())[0][0]
        'front'
    """

    program: Program
    measure: Callable[[], tuple[Mapping[str, int], int | None]] = field(default=_unknown, repr=False)

    @property
    def module(self) -> GraphModule:
        """The outer graph."""
        assert self.program.graph is not None
        return self.program.graph

    def show(self, path: str | Path = "graph.svg") -> Path:
        """Draw the graph into a file: stages with what they run and their FLOPs, the decision, the state.

        Args:
            path: the file; its suffix says the format: .svg, .png, .pdf, or .dot for the description alone.

        Returns:
            The path.

        Raises:
            DrawingError: the graphviz package, or its `dot` program, is not installed; or no such format.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> import fxcache
            >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
            >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
            >>> inputs = {"src": torch.randn(3, 1, 8)}
            >>> cached = fxcache.transform(model, "F1B0_W4M0MC3_T1O1_R0.12", example_inputs=inputs)
            >>> cached.graph.show("encoder.dot")
            PosixPath('encoder.dot')
        """
        target = Path(path)
        kind = target.suffix.removeprefix(".")
        try:
            from graphviz import FORMATS, ExecutableNotFound
        except ImportError as error:
            raise DrawingError("the Python package 'graphviz' is not installed") from error
        if kind not in ("dot", "gv", *FORMATS):
            raise DrawingError(
                f"{target.name!r} is no kind of picture that it draws", "name it .svg, .png or .pdf"
            )
        flops, size = self.measure()
        work = {name: f"{amount(count)}FLOPs" for name, count in flops.items()}
        memory = "of unknown size" if size is None else f"{size / 2**20:.2f} MiB a context"
        drawing = draw(self.program, work, memory)
        if kind in ("dot", "gv"):
            target.write_text(drawing.source)
            return target
        try:
            target.write_bytes(drawing.pipe(format=kind))
        except ExecutableNotFound as error:
            raise DrawingError("its program 'dot' is not installed") from error
        return target

    def __str__(self) -> str:
        return render(self.program)
