"""The name that was meant: options that do not exist are answered with the nearest that does."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from .errors import UnknownOptionError

F = TypeVar("F", bound=Callable[..., Any])


def nearest(name: str, known: Iterable[str], also: Mapping[str, str] | None = None) -> str | None:
    """The known name most like `name`; `also` maps further names to what is to be said of them."""
    said = {k.lower(): k for k in known}
    for theirs, ours in (also or {}).items():
        said.setdefault(theirs.lower(), ours)
    close = difflib.get_close_matches(name.lower(), said, n=1, cutoff=0.6)
    return said[close[0]] if close else None


def require_known(
    where: str, given: Iterable[str], known: Iterable[str], also: Mapping[str, str] | None = None
) -> None:
    """Raises `UnknownOptionError` for the first option that `where` does not have."""
    names = tuple(known)
    for name in given:
        if name not in names:
            raise UnknownOptionError(where, name, nearest(name, names, also), names)


def known_options(where: str, also: Mapping[str, str] | None = None) -> Callable[[F], F]:
    """A function that answers for keyword arguments that it does not have."""

    def decorate(function: F) -> F:
        names = tuple(inspect.signature(function).parameters)

        @functools.wraps(function)
        def checked(*args: Any, **options: Any) -> Any:
            require_known(where, options, names, also)
            return function(*args, **options)

        return checked  # type: ignore[return-value]

    return decorate
