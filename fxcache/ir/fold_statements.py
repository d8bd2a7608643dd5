"""Shorten the statements of a graph to what a reader wants to see; nothing of what it computes is left out.

Items of a tuple are named where it is made, values that are used once stand where they are used, and blocks
that feed one another are one line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from .keys import HISTORY
from .statements import Body, Branch, Call, Ref, Statement, Values, is_materialize, names_in

SHORT = 64  # characters of what may stand within another expression
LONG = 102  # of an expression with another in it


def fold(body: Body, state: Sequence[str], text: Callable[[Any], str]) -> Body:
    """The same statements, fewer of them. state: names of its tensors. text: how a value is written."""
    for step in (_name_items, _store_items, _keep_tuples, _drop_copies):
        body = step(body)
    body = _inline(_name_histories(body, state), text)
    return _store_together(_chain_blocks(body))


def each(body: Body) -> Iterator[Statement]:
    """Every statement, those in branches as well."""
    for part in body:
        if isinstance(part, Branch):
            yield Statement((), part.hit)
            yield from each(part.skip)
            yield from each(part.compute)
        else:
            yield part


def _lists(body: Body, change: Callable[[Body, Counter[Ref]], Body]) -> Body:
    """`change` done to each list of statements. Its second argument: how often each value is used."""
    uses = Counter(r for s in each(body) for r in names_in(s.value))

    def within(one: Body) -> Body:
        inner = [
            Branch(p.hit, within(p.skip), within(p.compute)) if isinstance(p, Branch) else p for p in one
        ]
        return change(inner, uses)

    return within(body)


def _item(part: Any) -> tuple[Ref, int] | None:
    """Of which value a statement is an item, and which."""
    if isinstance(part, Statement) and isinstance(part.value, Call) and part.value.target == "getitem":
        source, place = part.value.args
        if isinstance(source, Ref) and isinstance(place, int) and place >= 0:
            return source, place
    return None


def _name_items(body: Body) -> Body:
    """`a = f(); b = a[0]; c = a[1]` becomes `b, c = f()`."""

    def change(one: Body, uses: Counter[Ref]) -> Body:
        items: dict[Ref, dict[int, Statement]] = {}
        for part in one:
            found = _item(part)
            if found is not None:
                items.setdefault(found[0], {}).setdefault(found[1], part)
        out: Body = []
        for part in one:
            found = _item(part)
            if found is not None and uses[found[0]] == len(items[found[0]]) and _is_made(one, found[0]):
                continue
            if isinstance(part, Statement) and len(part.names) == 1 and part.names[0] in items:
                named = items[part.names[0]]
                if uses[part.names[0]] == len(named):
                    names = tuple(named[i].names[0] if i in named else None for i in range(max(named) + 1))
                    shapes = tuple(s for i in sorted(named) for s in named[i].shapes)
                    part = Statement(names, part.value, shapes)
            out.append(part)
        return out

    return _lists(body, change)


def _is_made(one: Body, name: Ref) -> bool:
    return any(isinstance(p, Statement) and p.names == (name,) for p in one)


def _store_items(body: Body) -> Body:
    """`b, c = f(); s = b; t = c`, with s and t remembered, becomes `s, t = f()`."""

    def change(one: Body, uses: Counter[Ref]) -> Body:
        stores = {
            p.value: p
            for p in one
            if isinstance(p, Statement) and p.names and isinstance(p.value, Ref) and _is_state(p)
        }
        gone: list[Statement] = []
        out: Body = []
        for part in one:
            if any(part is g for g in gone):
                continue
            if isinstance(part, Statement) and part.names and not _is_state(part):
                wanted = [stores.get(n) if n is not None else None for n in part.names]
                if all(w is not None and uses[w.value] == 1 for w in wanted):
                    found = [w for w in wanted if w is not None]
                    if not _disturbed(one, part, found[-1], [r for w in found for r in names_in(w.names)]):
                        gone += found
                        part = replace(part, names=tuple(w.names[0] for w in found))
            out.append(part)
        return out

    return _lists(body, change)


def _is_state(part: Statement) -> bool:
    return any(n is not None and n.state for n in part.names)


def _touches(part: Any, names: Sequence[Ref], reads: bool) -> bool:
    """Whether a statement writes to one of `names`, or (`reads`) reads one."""
    if isinstance(part, Branch):
        return any(_touches(p, names, reads) for p in (*part.skip, *part.compute))
    if any(n in names for n in part.names):
        return True
    effect = not part.names and isinstance(part.value, Call)
    return (reads or effect) and any(r in names for r in names_in(part.value))


def _disturbed(one: Body, first: Any, last: Any, names: Sequence[Ref], reads: bool = True) -> bool:
    """Whether a statement between two of a list writes to (or reads) one of `names`."""
    start = next(i for i, p in enumerate(one) if p is first)
    end = next(i for i, p in enumerate(one) if p is last)
    return any(_touches(p, names, reads) and not _is_store(p) for p in one[start + 1 : end])


def _is_store(part: Any) -> bool:
    return isinstance(part, Statement) and _is_state(part) and isinstance(part.value, Ref)


def _keep_tuples(body: Body) -> Body:
    """Items that are only ever used together keep the name of the tuple."""
    tuples: dict[tuple[Ref, ...], int] = {}

    def count(value: Any) -> None:
        if isinstance(value, (list, tuple)) and value and all(isinstance(v, Ref) for v in value):
            tuples[tuple(value)] = tuples.get(tuple(value), 0) + 1
        elif isinstance(value, Call):
            for v in (*value.args, *value.kwargs.values()):
                count(v)

    for part in each(body):
        count(part.value)
    uses = Counter(r for s in each(body) for r in names_in(s.value))
    whole: dict[tuple[Any, ...], Ref] = {}
    for part in each(body):
        names = part.names
        if len(names) > 1 and not _is_state(part) and names in tuples:
            base = re.sub(r"_\d+$", "", names[0].name) if names[0] is not None else ""
            if base and all(n is not None and uses[n] == tuples[names] for n in names):  # type: ignore[index]
                whole[names] = Ref(base)
    return _replaced(body, whole)


def history_names(state: Iterable[str]) -> dict[str, str]:
    """For the name of each history in the state, a short one: `history_0`."""
    histories = [name for name in state if HISTORY.fullmatch(name)]
    return {name: f"history_{i}" for i, name in enumerate(histories)}


def _name_histories(body: Body, state: Iterable[str]) -> Body:
    renamed = {Ref(name, True): Ref(short, True) for name, short in history_names(state).items()}
    return [_renamed(p, renamed) for p in body]


def _replaced(body: Body, whole: dict[tuple[Any, ...], Ref]) -> Body:
    """Tuples of values replaced by one name each, where they are made and where they are used."""

    def value(v: Any) -> Any:
        if isinstance(v, (list, tuple)):
            if all(isinstance(part, Ref) for part in v) and tuple(v) in whole:
                return whole[tuple(v)]
            return type(v)(map(value, v))
        if isinstance(v, Call):
            kwargs = {k: value(a) for k, a in v.kwargs.items()}
            return replace(v, args=tuple(map(value, v.args)), kwargs=kwargs)
        return v

    def part(p: Any) -> Any:
        if isinstance(p, Branch):
            return Branch(p.hit, [part(q) for q in p.skip], [part(q) for q in p.compute])
        names = (whole[p.names],) if p.names in whole else p.names
        return replace(p, names=names, value=value(p.value))

    return [part(p) for p in body]


def _drop_copies(body: Body) -> Body:
    """What a branch returns is named as what the `if` makes; that it is made dense is not shown."""

    def change(one: Body, uses: Counter[Ref]) -> Body:
        made = {n for p in one if isinstance(p, Statement) for n in p.names if n is not None}
        renamed: dict[Ref, Ref] = {}
        out: Body = []
        for part in one:
            if isinstance(part, Statement) and is_materialize(part.value):
                part = replace(part, value=part.value.args[0])
            if isinstance(part, Statement) and len(part.names) == 1 and isinstance(part.value, Ref):
                (name,) = part.names
                source = renamed.get(part.value, part.value)
                if name is not None and not name.state and source in made and source not in renamed.values():
                    renamed[source] = name
                    continue
            out.append(part)
        return [_renamed(p, renamed) for p in out]

    return _lists(body, change)


def _renamed(part: Any, names: dict[Ref, Ref]) -> Any:
    if isinstance(part, Branch):
        skip, compute = ([_renamed(p, names) for p in one] for one in (part.skip, part.compute))
        return Branch(names.get(part.hit, part.hit), skip, compute)
    targets = tuple(names.get(n, n) if n is not None else None for n in part.names)
    return replace(part, names=targets, value=substituted(part.value, names))


def substituted(value: Any, by: dict[Ref, Any]) -> Any:
    """`value` with references replaced."""
    if isinstance(value, Ref):
        return by.get(value, value)
    if isinstance(value, Call):
        kwargs = {k: substituted(v, by) for k, v in value.kwargs.items()}
        return replace(value, args=tuple(substituted(a, by) for a in value.args), kwargs=kwargs)
    if isinstance(value, (list, tuple)):
        return type(value)(substituted(v, by) for v in value)
    if isinstance(value, dict):
        return {k: substituted(v, by) for k, v in value.items()}
    return value


def _inline(body: Body, text: Callable[[Any], str]) -> Body:
    """A value that is used once, soon told and not disturbed stands where it is used."""

    def change(one: Body, uses: Counter[Ref]) -> Body:
        out = list(one)
        for part in one:
            if not isinstance(part, Statement) or len(part.names) != 1 or not isinstance(part.value, Call):
                continue
            (name,) = part.names
            current = next((p for p in out if isinstance(p, Statement) and p.names == (name,)), None)
            if current is None or name is None or name.state or uses[name] != 1 or current.value.block:
                continue
            user = next((p for p in out if isinstance(p, Statement) and name in set(names_in(p.value))), None)
            if user is None or (len(text(current.value)) > SHORT and _title(user) != "return"):
                continue
            if _disturbed(out, current, user, [r for r in names_in(current.value) if r.state], reads=False):
                continue
            merged = replace(user, value=substituted(user.value, {name: current.value}))
            breaks = isinstance(user.value, Call) and (user.value.block or _is_state(user))
            width = len(text(merged.value)) + sum(len(n.name) + 3 for n in merged.names if n is not None)
            if not breaks and width > LONG:
                continue
            out = [merged if p is user else p for p in out if p is not current]
        return out

    return _lists(body, change)


def _store_together(body: Body) -> Body:
    """`s = a; ...; t = b` becomes `s, t = a, b` at the place of the last, where nothing between touches s."""

    def change(one: Body, uses: Counter[Ref]) -> Body:
        stores = [p for p in one if _is_store(p)]
        if len(stores) < 2 or any(_disturbed(one, s, stores[-1], s.names) for s in stores[:-1]):
            return one
        names = tuple(n for s in stores for n in s.names)
        together = Statement(names, Values(tuple(s.value for s in stores)))
        return [together if p is stores[-1] else p for p in one if p is stores[-1] or p not in stores]

    return _lists(body, change)


def _title(part: Statement) -> str:
    return part.value.target if isinstance(part.value, Call) else ""


def _chain_blocks(body: Body) -> Body:
    """Blocks of one list that feed one another in the same way are one call of a slice of the list."""

    def change(one: Body, uses: Counter[Ref]) -> Body:
        out: Body = []
        for part in one:
            joined = _joined(out[-1], part, uses) if out else None
            if joined is not None:
                out[-1] = joined
            else:
                out.append(part)
        return out

    return _lists(body, change)


def _joined(first: Any, second: Any, uses: Counter[Ref]) -> Statement | None:
    if not (isinstance(first, Statement) and isinstance(second, Statement)):
        return None
    a, b = first.value, second.value
    if not (isinstance(a, Call) and isinstance(b, Call) and a.block and b.block):
        return None
    span = _span(a.target, b.target)
    given = [n for n in first.names if n is not None]
    inner = Counter(names_in(b))
    if span is None or any(uses[n] != inner[n] for n in given) or not given:
        return None
    feeds = _feeds(a, b, first.names)
    if feeds is None or not any(f is not None for f in feeds) or a.feeds not in ((), feeds):
        return None
    return Statement(second.names, replace(a, target=span, feeds=feeds), second.shapes)


def _span(first: str, second: str) -> str | None:
    """`self.blocks[1:4]` for `self.blocks[1:3]` (or `self.blocks.1`) and the one that follows."""
    match = re.fullmatch(r"(.+)\[(\d+):(\d+)\]", first)
    name, start, end = match.groups() if match else (*_split(first), None)
    following, number = _split(second)
    if not number or not start or following != name:
        return None
    end = int(end) if end is not None else int(start) + 1
    return f"{name}[{start}:{end + 1}]" if int(number) == end else None


def _split(target: str) -> tuple[str, str | None]:
    name, _, number = target.rpartition(".")
    return name, number if number.isdigit() else None


def _feeds(first: Call, second: Call, results: Sequence[Ref | None]) -> tuple[int | None, ...] | None:
    """For each argument of the second call, which result of the first it is; None where more differs."""
    if len(first.args) != len(second.args) or first.kwargs.keys() != second.kwargs.keys():
        return None
    before = [*first.args, *first.kwargs.values()]
    after = [*second.args, *(second.kwargs[k] for k in first.kwargs)]
    feeds: list[int | None] = []
    for a, b in zip(before, after, strict=True):
        fed = results.index(b) if isinstance(b, Ref) and b in results else None
        if fed is None and a != b:
            return None
        feeds.append(fed)
    return tuple(feeds)
