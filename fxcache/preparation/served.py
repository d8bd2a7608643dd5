"""For which sizes a captured graph holds."""

from __future__ import annotations

import sympy

from ..ir.captured import Capture
from ..ir.statements import Sizes


def served(capture: Capture) -> dict[str, list[int | str]]:
    """The shape of each input: numbers that are fixed, and names of sizes that are free.

    Example:
        >>> import fxcache
        >>> from fxcache.embedded import example_inputs, load_transformer
        >>> from fxcache.preparation.served import served
        >>> cached = fxcache.transform(load_transformer(), "2x", example_inputs=example_inputs())
        >>> served(cached.specializations()[0].program.capture)["hidden_states"]
        ['s0', 's1', 16]
    """
    shapes = capture.shapes
    free, sizes = set(shapes.open_dims()), Sizes()
    numbers = {c.lhs: c.rhs for c in shapes.conditions if isinstance(c, sympy.Eq) and c.rhs.is_number}

    def size(i: int, d: int, dim: sympy.Expr) -> int | str:
        return sizes.size(dim) if (i, d) in free else int(numbers.get(dim, dim))

    return {
        name: [size(i, d, dim) for d, dim in enumerate(shapes.dims[i])]
        for i, name in enumerate(capture.inputs)
    }
