"""The name that was meant: options that do not exist are answered with the nearest that does."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from .errors import UnknownOptionError


def nearest(name: str, known: Iterable[str], also: Mapping[str, str] | None = None) -> str | None:
    """The known name most like `name`; `also` has other people's names for some."""
    plain = {k.lower(): k for k in known}
    for theirs, ours in (also or {}).items():
        plain.setdefault(theirs.lower(), ours)
    close = difflib.get_close_matches(name.lower(), plain, n=1, cutoff=0.6)
    return plain[close[0]] if close else None


def require_known(where: str, given: Mapping[str, Any], known: Collection[str]) -> None:
    """Raises `UnknownOptionError` for the first option that `where` does not have."""
    for name in given:
        if name not in known:
            raise UnknownOptionError(where, name, nearest(name, known), tuple(known))
