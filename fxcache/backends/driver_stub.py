"""Link against the CUDA driver's library where there is no driver.

What AOTInductor writes is linked with `-lcuda`, the library that comes with the driver. Some toolkits have a
stub of it. This makes one: of its name, with all functions of `cuda.h`, none of which does anything. The
package finds the real one where it is loaded.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

FUNCTION = re.compile(r"\bcu[A-Z]\w*")


@contextlib.contextmanager
def linkable_driver(header: Path) -> Iterator[None]:
    """Within, for the whole process, the compiler finds a `libcuda` to link against.

    header: the toolkit's `cuda.h`.
    """
    functions = sorted(set(FUNCTION.findall(header.read_text())))
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "stub.c"), Path(folder, "libcuda.so")
        source.write_text("".join(f"void {name}(void) {{}}\n" for name in functions))
        compiler = os.environ.get("CC", "gcc")
        command = [compiler, "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o"]
        subprocess.run([*command, str(library), str(source)], check=True, capture_output=True)
        before = os.environ.get("LIBRARY_PATH")
        os.environ["LIBRARY_PATH"] = folder if before is None else f"{before}{os.pathsep}{folder}"
        try:
            yield
        finally:
            if before is None:
                del os.environ["LIBRARY_PATH"]
            else:
                os.environ["LIBRARY_PATH"] = before
