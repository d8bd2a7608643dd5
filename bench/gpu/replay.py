"""Run a package in a process of its own.

python -m bench.gpu.replay PACKAGE CALLS OUTPUTS
"""

from __future__ import annotations

import sys

import torch

import fxcache


def main(package: str, calls: str, outputs: str) -> None:
    """Load `package`, make the calls that a file holds, save what they return."""
    model = fxcache.load(package)
    with torch.no_grad():
        found = [model(**call)[0].clone() for call in torch.load(calls, weights_only=True)]
    torch.save(found, outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
