"""A command of fxcache, on each of several ranks.

Run by `torch.distributed.run`. In place of `--no-python fxcache`, for what a build of torch for CPUs lacks.
"""

from __future__ import annotations

import sys
import warnings

import torch

from fxcache.cli import main
from tests.behaviour.processes import shim

if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    shim.install()
    main(sys.argv[1:])
