"""One process of tests/benchmark/test_sharing.py: what it does is its argument, when told to be process 1."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from fxcache.benchmark.errors import BenchmarkError
from fxcache.benchmark.peers import Patience
from fxcache.benchmark.sharing import Share

PATIENCE = Patience(beat=0.2, silence=4.0, start=60.0)


def work(seconds: float) -> None:
    """Keep Python busy, as a capture does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


def act(what: str, share: Share) -> None:
    if what == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "hangs":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "works":
        work(2 * PATIENCE.silence)
    elif what == "fails":
        raise ValueError("no space left\non the device")


def run(what: str, rank: int) -> None:
    with Share.of_environment().together(PATIENCE) as share:
        assert share.exchange(os.environ["RANK"]) == ["0", "1"]
        if share.rank == rank:
            act(what, share)
        large = os.urandom(9 << 20)  # more than the store takes in one piece, compressed or not
        assert share.exchange({"bytes": large})[share.rank] == {"bytes": large}
        assert share.exchange(share.rank * 10) == [0, 10]
    assert threading.active_count() == 1  # no sign of life is left over
    print("all there")


if __name__ == "__main__":
    try:
        run(sys.argv[1], int(sys.argv[2]))
    except BenchmarkError as error:
        print(f"{type(error).__name__}: {error}")
        sys.exit(1)
