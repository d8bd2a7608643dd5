"""The kinds of GPUs that are compiled for where there is none.

Importing this needs no torch: the command line lists them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GPU:
    """A kind of GPU: the numbers that `torch.cuda.get_device_properties` gives, in bytes, kHz and bits."""

    name: str
    major: int
    minor: int
    multi_processor_count: int
    total_memory: int
    L2_cache_size: int
    shared_memory_per_multiprocessor: int
    shared_memory_per_block_optin: int
    max_threads_per_multi_processor: int
    clock_rate: int
    memory_clock_rate: int
    memory_bus_width: int
    shared_memory_per_block: int = 48 << 10
    regs_per_multiprocessor: int = 65536
    max_threads_per_block: int = 1024
    warp_size: int = 32
    gcnArchName: str = ""  # AMD's
    is_integrated: int = 0
    is_multi_gpu_board: int = 0


# As the driver reports them; the name keeps what is compiled here apart in caches that a real one shares.
GPUS = {
    "sm_80": GPU(
        "NVIDIA A100-SXM4-80GB (absent)",
        *(8, 0, 108, 80 << 30, 40 << 20, 164 << 10, 163 << 10, 2048, 1_410_000, 1_593_000, 5120),
    ),
    "sm_89": GPU(
        "NVIDIA L20 (absent)",
        *(8, 9, 92, 48 << 30, 96 << 20, 100 << 10, 99 << 10, 1536, 2_520_000, 9_001_000, 384),
    ),
    "sm_90": GPU(
        "NVIDIA H100 80GB HBM3 (absent)",
        *(9, 0, 132, 80 << 30, 50 << 20, 228 << 10, 227 << 10, 2048, 1_980_000, 2_619_000, 5120),
    ),
    "sm_100": GPU(
        "NVIDIA B200 (absent)",
        *(10, 0, 148, 180 << 30, 126 << 20, 228 << 10, 227 << 10, 2048, 1_965_000, 3_996_000, 8192),
    ),
}
