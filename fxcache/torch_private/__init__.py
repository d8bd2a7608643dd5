"""Every private name of torch that fxcache uses, each with the reason. At a new release, look here first.

Private is what begins with an underscore or is in a module that does, and what is in `torch.fx.experimental`.
The tables of an `nn.Module` (`_modules`, `_parameters`, `_buffers`, hooks) and its `_call_impl`,
`Tensor._version` and the `_schema` of an operator are read where they are needed: they have been as they are
since torch 1, and subclasses everywhere rely on them.

Each was seen in torch 2.11.0, 2.12.1, 2.13.0, 2.14.1 and 2.15.0, unless it says otherwise beside it;
tests/test_torch_private.py touches each.
"""

from .absent_attention import attention_as_on_cuda
from .absent_gpu import answering_for, builds_for_cuda, ptxas
from .absent_weights import AbsentWeights
from .compiler import (
    BRANCHES_MAY_WRITE,
    BackendCompilerFailed,
    FailOnRecompileLimitHit,
    OptimizedModule,
    TorchRuntimeError,
    TracingContext,
    Unsupported,
    UserError,
    aoti_read,
    aoti_write,
    as_if_compiling,
    before_compiling,
    capturing_scalars,
    compile_lock,
    compiler_reason,
    count_compiled_frames,
    eval_frame,
    forget_compiled,
    inductor,
    inductor_mode,
    inductor_options,
    is_marked,
    mark_static,
    mark_static_address,
    maybe_mark_dynamic,
)
from .generated_code import LAUNCHED, Launch, launches_of
from .operators import (
    DeviceContext,
    DispatchKey,
    HigherOrderOperator,
    OperatorBase,
    OpOverload,
    OpOverloadPacket,
    TorchDispatchMode,
    below_autograd,
    composite_kernel,
    dispatch_modes,
    function_modes,
    has_decomposition,
    has_dispatch_modes,
    has_function_modes,
    is_of_torch,
    registered_effect,
    without_dispatch_modes,
    without_torch_function,
)
from .processes import fsdp_casts, fsdp_groups
from .settings import (
    any_autocast,
    attention_kernels,
    backend_precisions,
    deterministic,
    library_kernels,
    matmul_precision,
    privateuse_name,
    set_attention_kernels,
    set_backend_precisions,
    set_deterministic,
    set_library_kernels,
    set_matmul_precision,
)
from .sizes import (
    COPIES_UNKNOWN_SIZES,
    ConstantSource,
    DimDynamic,
    GuardOnDataDependentSymNode,
    PythonPrinter,
    ShapeEnv,
    StatelessSymbolicContext,
    backed_symbols,
    forget_environments,
    size_facts,
)
from .tracing import (
    FAKE_TENSOR_LOG,
    FakeTensor,
    FakeTensorMode,
    ProxyTorchDispatchMode,
    PythonKeyTracer,
    deny_fx_tracing,
    disable_proxy_modes_tracing,
    enable_python_dispatcher,
    get_proxy_mode,
    get_proxy_slot,
    make_fx,
    pytree,
    rename,
    storage_id,
    symbolic_trace,
    track_tensor_tree,
)
