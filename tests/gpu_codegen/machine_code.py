"""Machine code: compiled for several kinds of GPU, and what it uses."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton.backends.nvidia
from torch._inductor.runtime.triton_heuristics import CachingAutotuner

CUOBJDUMP = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True)
class Usage:
    """What one kernel takes. stack, local: bytes of a thread's memory outside of registers: spills."""

    registers: int
    stack: int
    shared: int
    local: int

    @staticmethod
    def of(cubin: bytes) -> Usage:
        """Read from the code's own tables."""
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(cubin)
            file.flush()
            command = [CUOBJDUMP, "--dump-resource-usage", file.name]
            printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        (found,) = USAGE.findall(printed)
        return Usage(*map(int, found))


def machine_codes(kernel: CachingAutotuner, archs: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """(arch, machine code) of each configuration that would be tried; of the first also for other `archs`."""
    for result in kernel.compile_results:
        yield arch_of(result), result.kernel.asm["cubin"]
    first = kernel.compile_results[0]
    for arch in archs:
        if arch != arch_of(first):
            other = kernel._precompile_config(first.config, cc_override=int(arch.removeprefix("sm_")))
            yield arch, other.kernel.asm["cubin"]


def arch_of(result: Any) -> str:
    return f"sm_{result.kernel.metadata.target.arch}"
