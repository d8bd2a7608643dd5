"""Without a CUDA build of torch there is nothing here that could be imported."""

from __future__ import annotations

from fxcache.torch_private import builds_for_cuda

collect_ignore_glob = [] if builds_for_cuda() else ["test_*.py"]
