"""The `fxcache` command where torch-tensorrt is installed but there is no NVIDIA driver.

python -m tests.backends.tensorrt.without_driver tensorrt-report embedded
"""

from __future__ import annotations

import logging

from tests.backends.tensorrt import shim


def main() -> None:
    if shim.needed():
        shim.install()
    logging.getLogger("torch_tensorrt").setLevel(logging.CRITICAL)
    from fxcache.cli import main as command

    command()


if __name__ == "__main__":
    main()
