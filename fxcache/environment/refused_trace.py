"""Why a trace of a forward is refused."""

from __future__ import annotations


class RefusedTrace(Exception):
    """The trace works but means something else than the forward; the message says why."""
