"""Tell in words what fxcache found in a model and what a config does with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from ..backends.host.stage_fusion import host_path
from ..capture.call_signature import Call, flatten
from ..capture.forward_inputs import ForwardInputs
from ..capture.input_splits import argument_name
from ..capture.rank_groups import rank_groups
from ..capture.root_hooks import FORWARD, beneath, has_root_hooks
from ..config import CacheConfig, ConfigLike, as_config
from ..environment.ignored import paths_of
from ..ir.blocks import Segment
from ..ir.named_blocks import Named, named_paths
from ..ir.program import Program
from ..ir.ranks import RankGroup
from ..ops.shard import own_part
from ..policies import DBCache
from ..runtime.cached_transformer import CachedTransformer
from ..runtime.flops import count_step
from ..runtime.stats import amount
from ..runtime.subjects import require_model
from ..runtime.telling import warn_absent
from ..runtime.transform_call import transform_call
from ..spelling import known_options


@dataclass(frozen=True)
class SegmentFound:
    """One segment: its blocks by name, and where it is cut.

    blocks: in the order in which they run: `fn` at the front, the middle, `bn` at the back.
    cached_values: of what the middle hands on, the name, the shape at the example's sizes ("[1, 49, 128]"),
        and whether its "residual" or the "value" itself is cached.
    whole: of the latter, by name, why. signal: why the signal is the primary stream itself, not what the
        front adds to it; None where it is the residual.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> config = "F1B1_W4M0MC3_T1O1_R0.12"
        >>> (segment,) = fxcache.explain(model, config, {"src": torch.randn(3, 1, 8)}).segments
        >>> segment.blocks, segment.fn, segment.bn
        (('layers.0', 'layers.1', 'layers.2', 'layers.3'), 1, 1)
        >>> segment.cached_values
        (('layers_2', '[3, 1, 8]', 'residual'),)
    """

    blocks: tuple[str, ...]
    fn: int
    bn: int
    cached_values: tuple[tuple[str, str, str], ...]  # name, shape, "residual" or "value"
    whole: Mapping[str, str]  # of values: why each is cached itself and not its residual
    signal: str | None  # why the signal is the primary stream itself, not what the front adds to it


@dataclass(frozen=True)
class Explanation:
    """What was found; prints as words and a table.

    captured: how the forward was: on fake tensors or on real ones, for these sizes only or for others too.
    unless: why it was not captured with symbolic sizes, and what would change that; "" where it was.
    free_sizes: the sizes for which the graph holds whatever they are, as `input[dimension]`.
    lists: of each list of blocks in the chain, its name, the blocks' class, and how many of them are in it.
    streams: names of the first block's arguments that are carried from block to block; primary_stream: the
        one of which the signal is taken. timestep: the input that the clock reads.
    state_bytes: bytes of memory of one context. flops_computed, flops_cached: FLOPs of a step of the whole
        batch, a multiply-add as two; None where they cannot be counted.
    notes: what was decided against, and why. waits: why the compiled model cannot start a hit before it
        knows whether the step is one; None where it can.
    processes: the groups of ranks that decide together; none where each process decides for itself.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> found = fxcache.explain(model, "F1B1_W4M0MC3_T1O1_R0.12", {"src": torch.randn(3, 1, 8)})
        >>> found.blocks, found.lists, found.free_sizes
        (4, (('layers', 'TransformerEncoderLayer', 4),), ('src[0]',))
    """

    model: str
    config: CacheConfig
    captured: str
    free_sizes: tuple[str, ...]
    lists: tuple[tuple[str, str, int], ...]
    segments: tuple[SegmentFound, ...]
    streams: tuple[str, ...]
    primary_stream: str
    timestep: str | None
    state_bytes: int
    flops_computed: int | None
    flops_cached: int | None
    notes: tuple[str, ...] = ()
    waits: str | None = None
    processes: tuple[RankGroup, ...] = ()
    unless: str = ""

    @property
    def blocks(self) -> int:
        """How many blocks the chain has."""
        return sum(len(s.blocks) for s in self.segments)

    def __str__(self) -> str:
        free = ", ".join(self.free_sizes) or "none: another size captures again"
        lines = [
            f"{self.model} with {self.config}",
            f"  captured        {self.captured}; dynamic sizes: {free}",
            *([f"  not symbolic    {self.unless}"] if self.unless else ()),
            "  chain           " + " > ".join(f"{name} x{n} ({kind})" for name, kind, n in self.lists),
            *self._streams(),
            *self._policy(),
            f"  trajectories    {self._trajectories()}",
            *(f"  context         {name} follows {leader}" for name, leader in self.config.followed),
            *(f"  plan            {plan.draw()}" for plan in self.config.plans),
            *(f"  processes       {group.describe()}" for group in self.processes),
            *(f"  beside          {note}" for note in self.notes),
        ]
        for i, segment in enumerate(self.segments):
            lines += self._segment(i, segment)
        lines += [
            f"  state           {self.state_bytes / 2**20:.3f} MiB a context",
            f"  computed step   {amount(self.flops_computed)}FLOPs",
            f"  cached step     {amount(self.flops_cached)}FLOPs{self._share()}",
            f"  compiled        {self._start()}",
        ]
        return "\n".join(lines)

    def _streams(self) -> list[str]:
        if not self.streams:  # the output is cached, and no block runs in a hit
            return []
        signal = " (the signal)" if self.config.policy.needs_front else ""
        return [f"  streams         {', '.join(self.streams)}; primary{signal}: {self.primary_stream}"]

    def _policy(self) -> list[str]:
        policy = self.config.policy
        if self.config.plans or policy == DBCache():
            return []
        seen = {**LOOKS_AT, "residual": f"the front residual, {AGAINST[policy.against]}"}[policy.signal]
        return [f"  decided by      {type(policy).__name__}: {seen}"]

    def _trajectories(self) -> str:
        if self.timestep is None:
            return "no timestep input: call reset() between runs"
        return f"a new one begins where '{self.timestep}' turns back"

    def _start(self) -> str:
        if self.waits is None:
            return "a hit starts before the decision is known"
        return f"a hit starts after the decision: {self.waits}"

    def _segment(self, index: int, segment: SegmentFound) -> list[str]:
        n = len(segment.blocks)
        middle = n - segment.fn - segment.bn
        whole = self.config.level == "output"
        what = f"{n} blocks = {segment.fn} front + {middle} middle (skipped on a hit) + {segment.bn} back"
        if whole:
            what = "all" if segment.fn == 0 else f"all behind {segment.fn} front blocks"
            what += " is skipped on a hit"
        lines = [f"  segment {index}       {what}"]
        if middle and not whole:
            first, last = segment.blocks[segment.fn], segment.blocks[n - segment.bn - 1]
            lines.append(f"    cuts          before {first} and after {last}")
        if segment.signal is not None:
            lines.append(f"    signal        the stream itself, not what the front adds: {segment.signal}")
        for name, shape, kind in segment.cached_values:
            why = f", not its residual: {segment.whole[name]}" if name in segment.whole else ""
            lines.append(f"    caches        {kind} of {name} {shape}{why}")
        return lines

    def _share(self) -> str:
        if not self.flops_computed or self.flops_cached is None:
            return ""
        return f" ({self.flops_cached / self.flops_computed:.1%} of a computed one)"


@known_options("fxcache.explain()")
def explain(
    model: nn.Module,
    config: ConfigLike,
    example_inputs: Mapping[str, Any],
    *,
    scope: str = "model",
    timestep: str | None = None,
    method: str = FORWARD,
    ignore: Sequence[str] = (),
    blocks: Named | Sequence[Named] | None = None,
) -> Explanation:
    """What `transform(model, config)` finds for a call with `example_inputs`.

    What it runs: the forward on fake tensors, which have shapes but no values, once; again only where it
    cannot be traced so, or no chain of blocks is found the usual way. Then every stage of the cached graph,
    likewise on fake tensors, to count FLOPs. Nothing is computed, on any device, and models and inputs on
    the meta device will do. With one exception: where the model's code reads values of tensors and no
    symbol can stand for them, its forward is run on copies of `example_inputs`, on their device, blocks
    included: once, and again for each module that turns out to read values itself. `captured` then says "on
    real tensors". Of no run anything remains: what the forward sets is put back, as are the random
    generators. It captures anew even if `model` is cached already, and no state of that is touched.

    Args:
        model: as for `transform`, or what that returned, of which the original is looked at.
        config, scope, timestep, method, ignore, blocks: as for `transform`.
        example_inputs: keyword arguments of one call.

    Raises:
        ConfigError: the config cannot work, or has no cache. And what `transform` raises with
        `example_inputs`.

    Example:
        >>> import fxcache
        >>> from fxcache.embedded import example_inputs, load_transformer
        >>> config = "F1B1_W4M0MC3_T1O1_R0.12"
        >>> print(fxcache.explain(load_transformer(), config, example_inputs(batch=1)))
        FluxTransformer2DModel with F1B1_W4M0MC3_T1O1_R0.12
          captured        on fake tensors, sizes kept symbolic; dynamic sizes: hidden_states[1], ...
          chain           transformer_blocks x4 (...) > single_transformer_blocks x8 (...)
          streams         encoder_hidden_states, hidden_states; primary (the signal): hidden_states
          trajectories    a new one begins where 'timestep' turns back
          segment 0       12 blocks = 1 front + 10 middle (skipped on a hit) + 1 back
            cuts          before transformer_blocks.1 and after single_transformer_blocks.6
            caches        residual of single_transformer_blocks_6_0 [1, 2, 128]
            caches        residual of single_transformer_blocks_6_1 [1, 49, 128]
          state           ... MiB a context
          computed step   ... MFLOPs
          cached step     ... MFLOPs (...% of a computed one)
          compiled        a hit starts after the decision: a hit uses ...
    """
    original = model.original if isinstance(model, CachedTransformer) else require_model(model)
    settings = as_config(config)
    inputs = ForwardInputs.of(original, timestep, method, paths_of(ignore))
    named = named_paths(original, blocks)
    groups = model.processes if isinstance(model, CachedTransformer) else rank_groups(original)

    def transformed(*args: Any, **kwargs: Any) -> tuple[Call, Program]:
        bound = inputs.bind(args, kwargs)
        for path, known in bound.absent.items():
            warn_absent(type(original).__name__, path, known)
        call = flatten(bound, original.training)
        program = transform_call(
            original, settings, scope, inputs, bound, call.tensors, groups=groups, blocks=named
        )
        return call, program

    if groups and has_root_hooks(original) and method == FORWARD:  # which split the inputs, or gather weights
        call, program = beneath(original, transformed, (), example_inputs)
    else:
        call, program = transformed(**example_inputs)
    symbols = program.capture.shapes.bind([t.shape for t in call.tensors]) or {}
    described = [(tuple(t.shape), t.dtype, t.device) for t in call.tensors]
    flops = count_step(program, described, symbols)
    return Explanation(
        model=type(original).__name__,
        config=settings,
        captured=HOW[program.capture.how],
        free_sizes=_free_sizes(program),
        lists=_lists(program),
        segments=tuple(_segment(program, s) for s in program.segments),
        streams=_streams(program),
        primary_stream=_primary(program),
        timestep=program.timestep,
        state_bytes=sum(s.bytes(symbols) for s in program.state),
        flops_computed=flops.computed if flops else None,
        flops_cached=flops.cached if flops else None,
        notes=program.notes,
        waits=host_path(program).waits,
        processes=program.groups,
        unless=_unless(program),
    )


LOOKS_AT = {
    "sample": "what is denoised",
    "norm": "what the first block's first projection is given",
    "leader": "what another context did at this step",
    "none": "nothing of this run",
}
AGAINST = {
    "computed": "against the last computed step's",
    "last": "against the last step's",
    "forecast": "against its forecast",
}
HOW = {
    "symbolic": "on fake tensors, sizes kept symbolic",
    "static": "on fake tensors, for these sizes",
    "real": "on real tensors, for these sizes; values that the glue reads are guarded",
}


READING = ("data-dependent", "DataDependent")  # in what torch says where values of tensors are read
MENDING = "Values of a tensor are read there: pass numbers, or compute with tensors, and it may be symbolic"


def _unless(program: Program) -> str:
    """Why sizes are not symbolic, and what to do about it."""
    why = program.capture.refused.get("symbolic", "")
    return f"{why}. {MENDING}" if any(word in why for word in READING) else why


def _free_sizes(program: Program) -> tuple[str, ...]:
    names = program.capture.inputs
    return tuple(f"{names[i]}[{d}]" for i, d in program.capture.shapes.open_dims())


def _lists(program: Program) -> tuple[tuple[str, str, int], ...]:
    found: dict[tuple[str, str], int] = {}
    for block in program.chain:
        key = (block.module_list, block.kind.__name__)
        found[key] = found.get(key, 0) + 1
    return tuple((name, kind, count) for (name, kind), count in found.items())


def _segment(program: Program, segment: Segment) -> SegmentFound:
    assert program.partition is not None
    middle = program.partition.middles[segment.index]
    tensors = [node for node in middle.outputs if isinstance(node.meta["val"], torch.Tensor)]
    whole = {node.name: middle.whole[node.name] for node in tensors if node.name in middle.whole}
    cached = tuple((n.name, _shape(n), "value" if n.name in whole else "residual") for n in tensors)
    signal = program.partition.trunks[segment.index].whole
    names = tuple(b.name for b in segment.blocks)
    return SegmentFound(names, segment.fn, segment.bn, cached, whole, signal)


def _shape(node: Node) -> str:
    sizes = (s.node.hint if isinstance(s, torch.SymInt) else s for s in node.meta["val"].shape)
    return "[" + ", ".join("?" if s is None else str(s) for s in sizes) + "]"


def _streams(program: Program) -> tuple[str, ...]:
    carried = program.chain[0].carries.values() if program.chain else ()
    return tuple(_argument(program, value) for value in carried)


def _primary(program: Program) -> str:
    if not program.needs_chain:
        return "none is needed"
    block = program.chain[0]
    carried = block.carries.get(block.primary) if block.primary is not None else None
    return _argument(program, carried) if carried is not None else "the block's output"


def _argument(program: Program, carried: Node) -> str:
    """The name under which the first block takes a value."""
    whole = carried.args[0] if carried.target is own_part else carried
    assert isinstance(whole, Node)
    return argument_name(program.capture.graph, program.chain[0].node, whole) or carried.name
