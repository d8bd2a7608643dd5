"""One class per user mistake. Each message says what was wrong, where, and what to do."""

from __future__ import annotations


class FxcacheError(Exception):
    """Base of every error that fxcache raises on purpose. Raised as one of the classes below, each of which
    says in its message what was wrong, where, and what to do.

    Example:
        >>> import fxcache
        >>> try:
        ...     fxcache.CacheConfig.from_string("F8")
        ... except fxcache.FxcacheError as error:
        ...     print(error)
        cannot read 'F8' as a cache setting: it does not follow the pattern. Write it like ...
    """


class ConfigError(FxcacheError, ValueError):
    """A `CacheConfig` field, or an option, has a value that cannot work.

    Raised when a config is built, and by `fxcache.transform`; `field` names it. Give what it asks.

    Example:
        >>> import fxcache
        >>> fxcache.CacheConfig(max_warmup_steps=-1)
        Traceback (most recent call last):
        fxcache.errors.ConfigError: CacheConfig.max_warmup_steps = -1: must be a whole number of at least 0
    """

    def __init__(self, field: str, value: object, need: str, of: str = "CacheConfig") -> None:
        self.field = field
        what = f"{of}.{field} = {value!r}" if of == "CacheConfig" else f"{field}={value!r} of {of}"
        super().__init__(f"{what}: {need}")


class GraphSettingError(ConfigError):
    """A setting is part of the graph, which was made with another.

    Raised by `configure`, and by a context with a config of its own. Transform, or export, with this config;
    what is state may be changed at any time: thresholds, warmup, limits, the steps mask, plans.
    """


class UnknownOptionError(ConfigError, TypeError):
    """An option or a field that does not exist.

    Raised by everything that takes options. Use the name that the message suggests.
    """

    def __init__(self, where: str, name: str, meant: str | None, known: tuple[str, ...]) -> None:
        self.field = name
        advice = f"did you mean {meant!r}?" if meant is not None else f"it has {', '.join(known)}."
        FxcacheError.__init__(self, f"{where} has no {name!r}: {advice}")


class UnknownContextError(FxcacheError, KeyError):
    """There are no statistics of a context by this name.

    Raised by `stats()[name]`. The message names the contexts that there are.
    """

    def __init__(self, name: object, meant: str | None, known: tuple[str, ...]) -> None:
        there = f"there are {', '.join(known)}" if known else "no step was run yet"
        advice = f"did you mean {meant!r}?" if meant is not None else f"{there}."
        super().__init__(f"stats() has no context {name!r}: {advice}")

    def __str__(self) -> str:  # KeyError would quote it
        return str(self.args[0])


class NotationError(FxcacheError, ValueError):
    """A string is not in the benchmark's notation.

    Raised where a config is given as a string. Write it like `F8B0_W8M0MC3_T1O1_R0.12`.
    """

    def __init__(self, text: str, why: str) -> None:
        super().__init__(
            f"cannot read {text!r} as a cache setting: {why}. "
            "Write it like 'F8B0_W8M0MC3_T1O1_R0.12', or 'C0_Q0_NONE' for no cache."
        )


class PlanError(FxcacheError, ValueError):
    """A plan cannot work, cannot be read, or does not fit what it is used for.

    Raised by `Plan`, `fxcache.plan`, `fxcache.calibrate`, and where a plan is used. The message says what is
    wrong; make the plan anew for this model, scheduler and number of steps.

    what, remedy: the two sentences of the message.

    Example:
        >>> import fxcache
        >>> fxcache.Plan(steps=2, computed=(0,), weights=((1, 0), (0, 0)))
        Traceback (most recent call last):
        fxcache.errors.PlanError: no plan: step 1 is made of nothing. ...
    """

    def __init__(
        self, what: str, remedy: str = "Make one with fxcache.plan() or fxcache.calibrate()."
    ) -> None:
        self.what, self.remedy = what, remedy
        super().__init__(f"{what}. {remedy}")


class CalibrationError(PlanError):
    """A model, or its sampler, cannot be calibrated as it was given.

    Raised by `fxcache.calibrate`. The message says what its runs did, and what to change.
    """


class MaskTooShortError(FxcacheError, ValueError):
    """`steps_mask` covers fewer steps than will be run.

    Raised by `CacheConfig.for_steps`. Give the mask one entry a step.
    """

    def __init__(self, length: int, steps: int) -> None:
        super().__init__(
            f"steps_mask has {length} entries but {steps} steps will be run: "
            "give one entry (1 compute, 0 may cache) for each step."
        )


class TooManyBlocksError(FxcacheError, ValueError):
    """Fn + Bn is more than the model, or a list of its blocks with `scope="list"`, has blocks.

    Raised by the first call, or by `transform` with `example_inputs`. Lower one of them.
    """

    def __init__(self, fn: int, bn: int, blocks: int, where: str) -> None:
        super().__init__(
            f"fn_compute_blocks={fn} + bn_compute_blocks={bn} is more than the {blocks} blocks of "
            f"{where}: lower one of them so that Fn + Bn <= {blocks}."
        )


class NoBlocksError(FxcacheError):
    """No chain of repeated blocks was found.

    Raised by the first call, or by `transform` with `example_inputs`. Such a model runs uncached with
    `on_unsupported="passthrough"`.
    """

    def __init__(self, model: str, found: str) -> None:
        super().__init__(
            f"{model} has no chain of repeated blocks that fxcache can cache ({found}). A chain is "
            "two or more calls of modules of one class, or of one collection (an nn.ModuleList, an "
            "nn.Sequential, a list or dict, block0, block1 ...), each consuming what the one before "
            "produced. "
            'Use on_unsupported="passthrough" to run it uncached.'
        )


class CaptureError(FxcacheError):
    """The model's forward could not be traced; `attempts` has the reason of each way that was tried.

    Raised by the first call of a kind, or by `transform` with `example_inputs`. Change what the reasons name,
    or let such calls run uncached with `on_unsupported="passthrough"`.
    """

    def __init__(self, model: str, attempts: dict[str, str]) -> None:
        self.attempts = attempts
        tried = "".join(f"\n  - {how}: {why}" for how, why in attempts.items())
        super().__init__(
            f"the forward of {model} cannot be captured as a graph. Tried:{tried}\n"
            'Use on_unsupported="passthrough" to run it uncached.'
        )


class TooManyCapturesError(CaptureError):
    """Calls of one kind need a new graph each time.

    Raised by a call, once `max_captures` graphs served one call each. Pass what changes as a tensor.
    """

    def __init__(self, model: str, captures: int, why: str) -> None:
        self.attempts = {}
        FxcacheError.__init__(
            self,
            f"{captures} graphs of {model} served one call each, and another is needed because {why}. "
            "Values that are part of a graph must not change on every call: pass a tensor instead of a "
            "number, keep such values the same, or raise max_captures in fxcache.transform(). reset() lets "
            'it be tried again; on_unsupported="passthrough" runs such calls uncached.',
        )


class PeersError(CaptureError):
    """Several processes make different things of one call, or one of them can make nothing of it.

    Raised by the first call of a kind, on all ranks that decide together. Give all ranks the same model,
    settings and calls, and mend what the message names; or let such calls run uncached on all of them with
    `on_unsupported="passthrough"`.
    """

    def __init__(self, model: str, what: str) -> None:
        self.attempts = {}
        FxcacheError.__init__(
            self,
            f"the ranks that run {model} together must do the same, and do not: {what}. Give all of them the "
            'same model, settings and calls. on_unsupported="passthrough" runs such calls uncached on all.',
        )


class PeerFailedError(FxcacheError):
    """Another of several processes failed at a call that all were to make, and does not run it uncached.

    Raised by the call, whatever `on_unsupported` says, on the ranks that did not fail: to run the model
    without that one would be to wait for it. It raises its own error.
    """

    def __init__(self, model: str, why: str) -> None:
        super().__init__(
            f"a call of {model} was run on no rank: {why}. Mend that, or give all ranks calls and settings "
            "that they can run."
        )


class UnknownSizeError(CaptureError):
    """The sizes of what a model's blocks carry depend on values, and this torch must know them.

    Raised by the first call of a kind, or by `transform` with `example_inputs`. Use the torch that it names,
    or let such calls run uncached with `on_unsupported="passthrough"`.
    """

    def __init__(self, stage: str, node: str, torch: str) -> None:
        self.attempts = {}
        FxcacheError.__init__(
            self,
            f"'{node}' of the graph's {stage} remembers a tensor whose sizes depend on values, and torch "
            f"{torch} must know them: "
            'use torch 2.12 or later, or on_unsupported="passthrough", which runs uncached.',
        )


class BlockMutationError(FxcacheError):
    """A block writes to something that lives on after it: skipping it would change results.

    Raised by the first call, or by `transform` with `example_inputs`. Leave out the input that it writes for.
    """

    def __init__(self, block: str, what: str) -> None:
        super().__init__(
            f"block '{block}' {what}; a block with side effects must not be skipped. "
            "Call the model without that input, or leave this model uncached."
        )


class OpaqueInputError(FxcacheError, TypeError):
    """An input is an object that fxcache cannot compare between calls.

    Raised by a call. Pass tensors, plain values, or containers of these.
    """

    def __init__(self, name: str, kind: str) -> None:
        super().__init__(
            f"input '{name}' holds a {kind}, which fxcache cannot check for changes between calls. "
            "Pass tensors, numbers, strings, None, or lists, tuples and dicts of them."
        )


class IgnoredInputError(CaptureError):
    """The model looks at an option that `transform(ignore=...)` leaves out.

    Raised by a call. Leave it in: what the model looks at is part of its graph.
    """

    def __init__(self, path: str) -> None:
        self.attempts = {}
        FxcacheError.__init__(
            self,
            f"ignore=({path!r},) leaves out what the model looks at when it runs: results may depend on it. "
            "Leave this path out of ignore= in fxcache.transform(), or name one that it does not read.",
        )


class DefectError(FxcacheError):
    """Code of fxcache failed where it should not. A bug of fxcache, not of the user.

    Raised by a capture. Report it; `on_unsupported="passthrough"` runs such calls uncached.
    """

    def __init__(self, model: str, what: str) -> None:
        super().__init__(
            f"capturing {model} failed inside of fxcache ({what}). This is a defect of fxcache; please "
            'report it with the traceback. on_unsupported="passthrough" runs uncached.'
        )


class GraphSpecError(FxcacheError):
    """A pass produced a graph that breaks the specification. A bug of fxcache, not of the user.

    Raised after the pass that did. Report it; `on_unsupported="passthrough"` runs such calls uncached.
    """

    def __init__(self, after: str, what: str) -> None:
        super().__init__(
            f"the graph after '{after}' is broken: {what}. This is a defect of fxcache; please report "
            'it with the output of fxcache.explain(). on_unsupported="passthrough" runs uncached.'
        )


class NamedBlocksError(NoBlocksError):
    """The blocks that `transform(blocks=...)` names are no chain.

    Raised by the first call, or by `transform` with `example_inputs`. The message says which of them is not
    called, or not reached from the others; name those that hand a stream on to one another.
    """

    def __init__(self, model: str, why: str) -> None:
        FxcacheError.__init__(
            self,
            f"the named blocks of {model} are no chain: {why}. Each block must consume, directly or through "
            "what lies between, what the one before produced. Name only such, or leave blocks= out and let "
            "them be found.",
        )


class NoMethodError(FxcacheError, AttributeError):
    """A model has no such method.

    Raised by `transform(method=...)` and `explain`. Name a method that is called as its forward would be.
    """

    def __init__(self, model: str, name: str, meant: str | None, known: tuple[str, ...]) -> None:
        there = f"its own methods are {', '.join(known)}." if known else "it has no methods of its own."
        advice = f"did you mean {meant!r}?" if meant is not None else there
        FxcacheError.__init__(self, f"method={name!r} is not a method of {model}: {advice}")


class NoTimestepError(FxcacheError, ValueError):
    """The named timestep input is not an input of the model.

    Raised by `transform(timestep=...)` and `explain`. Name one of the forward's inputs.
    """

    def __init__(self, name: str, inputs: tuple[str, ...]) -> None:
        super().__init__(
            f"timestep={name!r} is not an input of the model's forward; its inputs are {', '.join(inputs)}."
        )


class ArgumentsError(FxcacheError, TypeError):
    """The arguments of a call are not those of the model's forward.

    Raised by a call, and by whatever takes `example_inputs`. Give what the forward's signature asks.
    """

    def __init__(self, model: str, what: str) -> None:
        super().__init__(f"the forward of {model} does not take this call: {what}.")


class NotAModelError(FxcacheError, TypeError):
    """What was given is not a module that could be transformed.

    Raised by `transform` and `explain`. Give the module itself, not its class, path or compiled form.
    """

    def __init__(self, given: str, do: str) -> None:
        super().__init__(f"fxcache takes a model (nn.Module) or a pipeline object, not {given}: {do}.")


class SignalRequiredError(FxcacheError, ValueError):
    """Fn = 0 although the decision needs the front blocks' residual.

    Raised when such a config is built. Use Fn of at least 1, a policy that needs no block, or a static steps
    mask.
    """

    def __init__(self) -> None:
        super().__init__(
            "fn_compute_blocks=0 leaves no residual to compare. Use fn_compute_blocks >= 1, a policy that "
            'needs no block, such as MagCache, or a steps_mask with steps_mask_policy="static".'
        )


class PassthroughWarning(UserWarning):
    """A model runs uncached because it could not be transformed.

    Warned of once for each reason, with `on_unsupported="passthrough"`.
    """


class OtherMethodWarning(PassthroughWarning):
    """A model runs uncached because another of its methods is the cached one.

    Warned of once. Call that method, or transform without `method=`.
    """


class IgnoredOptionWarning(UserWarning):
    """An option that is to be ignored has been in no call so far.

    Warned of once for each path, at the first call; the message names what there is in its place. Mend the
    path, or leave it out.
    """


class ProcessesWarning(UserWarning):
    """Several processes have a part in a model's forward, and nothing says that they must decide together.

    Warned of once for each cached model. Give `transform(process_group=...)`, or `process_group=None` where
    each rank may cache as it likes.
    """


class RecaptureWarning(PassthroughWarning):
    """Calls of one kind run uncached because each would need a graph of its own.

    Warned of once, with `on_unsupported="passthrough"`. Pass what changes as a tensor.
    """


class GradientWarning(UserWarning):
    """A cached model is called under autograd and therefore runs uncached.

    Warned of once for each cached model. Call it within `torch.no_grad()`.
    """


class TrajectoryWarning(UserWarning):
    """New trajectories cannot be detected by time, as the model takes none.

    Warned of at the first step of a cached model, and by `load`. Call `reset()` between runs.
    """


class IdleCacheWarning(UserWarning):
    """A run of ten steps and more had no hit: the cache was paid for, and saved nothing.

    Warned of once for each cached model, when its next run begins or its `stats()` are read. The message says
    why: a threshold below the diffs, limits that let no step be a hit, calls that each begin a run.
    """


class PlanWarning(UserWarning):
    """A run turned out to follow no plan after some of its steps.

    Warned of where the host does not wait for the device: a timestep was not that of the plan. The steps
    after it are computed. Call `reset()` after a run that was broken off; give the plan for so many steps.
    """


class TooManyContextsError(FxcacheError):
    """More contexts hold state than the limit allows.

    Raised by the call that would begin one more. Call `reset()`, use names again, or raise `max_contexts`.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} cache contexts hold state already. Call reset() when a request is done, reuse "
            "context names, or raise max_contexts in fxcache.transform() or load()."
        )


class BackendError(FxcacheError, ValueError):
    """A backend cannot do what was asked of it.

    Raised by `compile` and `export`. The message says what it takes.
    """

    def __init__(self, asked: str, need: str) -> None:
        super().__init__(f"{asked} must {need}")


class CudaBuildError(FxcacheError, RuntimeError):
    """This installation cannot compile for CUDA.

    Raised where code is compiled for a GPU that is not there. Install a CUDA build of torch, and Triton.
    """

    def __init__(self, version: str) -> None:
        super().__init__(
            "compiling for a GPU that is not there needs a CUDA build of torch, with Triton, and torch "
            f"{version} is none: install a CUDA build, such as those of https://download.pytorch.org/whl/cu130."
        )


class TracingError(BackendError):
    """Somebody else's tracer or compiler was given a cached model.

    Raised when it runs the model. Use `fxcache.compile` or `fxcache.export`.
    """

    def __init__(self, by: str, instead: str) -> None:
        super().__init__(
            f"{by} of a cached model", f"be replaced by {instead}: the cache decides anew on every step"
        )


class CompilationError(FxcacheError):
    """The compiler did not take the cached graph of a model.

    Raised by the first call after `compile`. The message says what to do about the reason.
    """

    def __init__(self, model: str, mode: str, reason: str, advice: str) -> None:
        super().__init__(f"{model} cannot be compiled with mode={mode!r}: {reason}. {advice}")


class NotCapturedError(FxcacheError, AttributeError):
    """There is no graph yet. An AttributeError, too, for those who look through all attributes.

    Raised by `cached.graph` before the first call. Call the model, or `prepare` it.
    """

    def __init__(self) -> None:
        super().__init__(
            "no call was captured yet: call the model once, or give example_inputs to fxcache.transform()."
        )


class DrawingError(FxcacheError, RuntimeError):
    """A graph cannot be drawn here.

    Raised by `cached.graph.show`. Install graphviz, or choose another format.
    """

    def __init__(self, why: str, advice: str = "") -> None:
        advice = advice or (
            "Install graphviz itself (apt install graphviz, brew install graphviz) and pip install "
            "'fxcache[draw]'; or name the file .dot, which needs only the latter"
        )
        super().__init__(f"the graph cannot be drawn: {why}. {advice}.")


class TensorRTMissingError(FxcacheError, ImportError):
    """The TensorRT backend needs a package that is not installed, or cannot be imported.

    Raised by `compile` and `export` with `backend="tensorrt"`, and by `load`. Install `fxcache[tensorrt]`.
    """

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the TensorRT backend needs torch-tensorrt: {why}. Install it with "
            "pip install 'fxcache[tensorrt]', or 'fxcache[tensorrt-rtx]' for TensorRT-RTX."
        )


class TensorRTDeviceError(FxcacheError, RuntimeError):
    """TensorRT engines run on an NVIDIA GPU, and there is none, or the model is not on it.

    Raised by `compile` with `backend="tensorrt"`, and by `load`. Move the model to the GPU first.
    """

    def __init__(self, what: str, need: str) -> None:
        super().__init__(f"TensorRT engines run on NVIDIA GPUs only: {what}. {need}")


class EngineRangeError(FxcacheError, ValueError):
    """Sizes for which no TensorRT engine can be built, or for which none was.

    Raised by a call, and by `export` with `backend="tensorrt"`. Give a `dynamic=` range that has them.
    """

    def __init__(self, what: str, why: str) -> None:
        super().__init__(
            f"no TensorRT engine for {what}: {why}. Give fxcache.compile(backend='tensorrt') a dynamic= "
            "range within what the model takes: input name -> dimension -> (lowest, highest)."
        )


class FixedWeightsError(FxcacheError):
    """The weights in engines that were built without `refit=True` would be replaced.

    Raised by `refit`. Compile with `refit=True`.
    """

    def __init__(self) -> None:
        super().__init__(
            "these engines hold fixed weights, which refit() cannot replace: "
            'build them with fxcache.compile(cached, backend="tensorrt", refit=True).'
        )


class LeftoverOperatorsError(FxcacheError):
    """`require_full=True`, but some operators would not run in a TensorRT engine.

    Raised by the first call, and by `export`; `leftovers` names them. A package cannot hold them.
    """

    def __init__(self, stage: str, leftovers: dict[str, str]) -> None:
        self.leftovers = leftovers
        lines = "".join(f"\n  - {operator}: {why}" for operator, why in leftovers.items())
        super().__init__(
            f"stage '{stage}' does not fit into one TensorRT engine. Left in PyTorch:{lines}\n"
            "fxcache.compile with require_full=False runs these in PyTorch between engines; a package cannot."
        )


class LeftoverOperatorsWarning(UserWarning):
    """Operators of a stage run in PyTorch, between TensorRT engines.

    Warned of when engines are built without `require_full=True`.
    """


class RepeatedWeightsWarning(UserWarning):
    """TensorRT engines hold the same weights more than once.

    Warned of when engines are built.
    """


class PrecisionError(FxcacheError, ValueError):
    """A precision that the engines cannot have.

    Raised by `compile` and `export` with `backend="tensorrt"`. The message says which they can.
    """

    def __init__(self, asked: object, need: str) -> None:
        super().__init__(f"precision={asked!r}: {need}")


class PackageError(FxcacheError):
    """A file is not a package that can be loaded here.

    Raised by `load`. The message says what to mend.
    """

    def __init__(self, path: object, what: str, do: str) -> None:
        super().__init__(f"cannot load '{path}': {what}. To mend it, {do}.")


class PackageInputError(FxcacheError, ValueError):
    """A loaded package is called with something that it was not exported for.

    Raised by a call, which then runs nothing. Export a package for such calls.
    """

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"input '{name}' {what}. Export a package for such calls with fxcache.export().")


class PackageUseError(FxcacheError):
    """A loaded package is asked for something that only the model's Python code could do.

    Raised by what would do nothing on it, or wrong. Do it to the model, before `export`.
    """

    def __init__(self, model: str, what: str, instead: str) -> None:
        super().__init__(
            f"a package of {model} {what}: it is compiled code, its weights, dtypes and device fixed when it "
            f"was exported. {instead}"
        )


class PackageAttributeError(PackageUseError, AttributeError):
    """A package has no such attribute. An AttributeError, too, for those who look whether it has.

    Raised by attribute access. What changes a model is done before `export`.
    """


class ExportError(FxcacheError):
    """A cached model cannot be exported as it is.

    Raised by `export`. The message says what its graph or state depends on.
    """

    def __init__(self, model: str, why: str) -> None:
        super().__init__(f"{model} cannot be exported: {why}")


class RootHookError(FxcacheError):
    """A hook on the model takes the place of its forward.

    Raised by a call. Remove the hook.
    """

    def __init__(self, model: str, hook: str) -> None:
        super().__init__(
            f"the hook '{hook}' on {model} replaces its forward, which the cached graph replaces, too. "
            "Remove the hook (diffusers' own caches: disable_cache()), or leave this model uncached."
        )


class AlreadyCachedError(FxcacheError):
    """A model would be cached twice.

    Raised by `transform`, and by calls once another cache was enabled. Disable one of the two.
    """

    def __init__(self, model: str, theirs: str) -> None:
        super().__init__(
            f"{model} would have two caches, {theirs} and this one, each skipping blocks that the other "
            "counts on. Remove that one first: disable_cache() on the model, HookRegistry.remove_hook(), "
            "cache_dit.disable_cache(pipe), or fxcache.restore(pipe)."
        )


class ReplicaError(FxcacheError):
    """A cached model would be split over threads and devices.

    Raised under `nn.DataParallel`. Run one process for each device.
    """

    def __init__(self, model: str) -> None:
        super().__init__(
            f"a cached {model} has one state for each request and cannot be replicated by nn.DataParallel: "
            "run one process for each device and transform the model in each."
        )


class NoDenoiserError(FxcacheError, ValueError):
    """A pipeline has no component that could be cached.

    Raised by `transform`. Give it the module itself, with `timestep=`.
    """

    def __init__(self, pipeline: str, components: tuple[str, ...]) -> None:
        super().__init__(
            f"none of the components of {pipeline} ({', '.join(components)}) is a denoiser: a module with "
            "a timestep input and a list of blocks. Transform the module itself, with timestep=..., and "
            "put it in its place."
        )
