"""Blocks that a person names, where the model's structure does not show them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from ..errors import ConfigError, NamedBlocksError
from ..spelling import nearest
from .module_lists import Way, leaves_around
from .module_tree import Held, module_tree
from .names import attribute, attribute_names

Named = str | nn.Module
OF = "fxcache.transform()"


def named_paths(model: nn.Module, blocks: Named | Sequence[Named] | None) -> tuple[str, ...]:
    """Paths of what holds the blocks, or of the blocks: of modules or plain containers, or the modules.

    Raises `ConfigError` where there is no such path or module in `model`.

    Example:
        >>> from torch import nn
        >>> from fxcache.ir.named_blocks import named_paths
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        >>> named_paths(model, "layers"), named_paths(model, [model.layers[1], "layers.0"])
        (('layers',), ('layers.1', 'layers.0'))
    """
    if blocks is None:
        return ()
    named = [blocks] if isinstance(blocks, (str, nn.Module)) else list(blocks)
    places = {held.path: held for held in module_tree(model).walk() if held.path}
    paths = {id(held.module): path for path, held in places.items() if held.module is not None}
    found = []
    for one in named:
        path = one if isinstance(one, str) else paths.get(id(one))
        if path is None:
            need = f"it is no part of {type(model).__name__}"
            raise ConfigError("blocks", f"<{type(one).__name__}>", need, of=OF)
        if path not in places:
            close = nearest(path, places)
            need = f"there is no such module in {type(model).__name__}"
            raise ConfigError("blocks", path, f"{need}{f': did you mean {close!r}?' if close else ''}", of=OF)
        found.append(path)
    if not found:
        raise ConfigError("blocks", blocks, "name at least one path or module, or leave it out", of=OF)
    return tuple(found)


def way_by_names(model: nn.Module, paths: Sequence[str]) -> Way:
    """The way whose blocks are those at `paths`: what is there, or the items of a container that is.

    Raises `NamedBlocksError` where one lies within another, or is gone.
    """
    tree, taken = module_tree(model), attribute_names()
    places = {held.path: held for held in tree.walk()}
    name = type(model).__name__
    gone = [path for path in paths if path not in places]
    if gone:
        raise NamedBlocksError(name, f"there is no '{gone[0]}' any more")
    lists = {item: path for path in paths for item in _blocks(places[path])}
    empty = [path for path in paths if path not in lists.values()]
    if empty:
        raise NamedBlocksError(name, f"there is no module in '{empty[0]}'")
    for item in lists:
        for other in lists:
            if other is not item and any(held is other for held in item.walk()):
                raise NamedBlocksError(name, f"'{other.path}' lies within '{item.path}'")
    leaves = tuple((attribute(path, taken), leaf) for path, leaf in leaves_around(tree, set(map(id, lists))))
    named = tuple((attribute(item.path, taken), path) for item, path in lists.items())
    return Way(by_class=True, leaves=leaves, blocks=frozenset(block for block, _ in named), lists=named)


def _blocks(held: Held) -> Iterator[Held]:
    if not held.holds_items:
        yield held
    else:
        for child in held.children:
            if child.calls:
                yield child
            else:
                yield from _blocks(child)
