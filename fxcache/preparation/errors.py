"""Why no call of a model could be prepared, and what to do."""

from __future__ import annotations

from ..errors import FxcacheError


class UnknownModelError(FxcacheError):
    """What was named is no model."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(
            f"{name}: {why}; give embedded, a diffusers pipeline folder, a transformer's folder or "
            "config.json, or the name of a transformer class of diffusers"
        )


class NoCallError(FxcacheError):
    """No call of a model could be made up or caught."""

    def __init__(self, model: str, why: str) -> None:
        super().__init__(
            f"no call of {model} could be prepared ({' '.join(why.split())}): give its tensors, "
            "--input NAME=SHAPE for each, and --arg NAME=VALUE for the rest"
        )
