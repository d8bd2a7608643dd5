"""The processes of a shared run wait for each other, and know the slow from the dead.

Each has a thread that counts up a number in their common store while the process lives, whatever it works
on. Who waits watches the number of whom it waits for: one that stands still is a process that is gone.
"""

from __future__ import annotations

import base64
import os
import pickle
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any

from torch.distributed import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from .errors import LostProcessError

PIECE = 1 << 20  # bytes of a value in the store, whose server takes 8 MiB at most
POLL = 0.2  # seconds between two looks into the store: who waits takes little from who measures


@dataclass(frozen=True)
class Patience:
    """In seconds. beat: between two signs of life. silence: after which a process is dead, much longer than
    any call into native code holds Python's lock. start: until the last process has begun."""

    beat: float = 2.0
    silence: float = 60.0
    start: float = 300.0


USUAL = Patience()


class Peers:
    """Process `rank` among `world` that meet in a `store`. Make it by `meet`."""

    def __init__(self, store: Store, rank: int, world: int, patience: Patience) -> None:
        self._store = store
        self._rank = rank
        self._world = world
        self._patience = patience
        self._rounds = count()
        self._leaving = threading.Event()

    def exchange(self, value: Any) -> list[Any]:
        """Every process's value, in the order of ranks. Waits for all of them.

        Raises `LostProcessError`, which names the first that stopped, died or never began.
        """
        number = next(self._rounds)
        with self._store_at_hand():
            self._put(f"value/{number}/{self._rank}", value)
            values = [self._get(f"value/{number}/{rank}", rank) for rank in range(self._world)]
            self._store.set(f"read/{number}/{self._rank}", "")
            if self._rank == 0:  # the store may end with this process, so the others read first
                for rank in range(self._world):
                    self._wait(f"read/{number}/{rank}", rank)
        return values

    def stop(self, why: str) -> None:
        """Tell the others that this process ends before its time."""
        with suppress(RuntimeError):  # the store may be what failed
            self._store.set(f"stopped/{self._rank}", why)

    def _put(self, key: str, value: Any) -> None:
        content = base64.b64encode(zlib.compress(pickle.dumps(value))).decode()  # it takes no bytes
        pieces = [content[at : at + PIECE] for at in range(0, len(content), PIECE)]
        for number, piece in enumerate(pieces):
            self._store.set(f"{key}/{number}", piece)
        self._store.set(key, str(len(pieces)))  # last: whoever sees it finds the pieces

    def _get(self, key: str, rank: int) -> Any:
        self._wait(key, rank)
        pieces = [self._store.get(f"{key}/{number}") for number in range(int(self._store.get(key)))]
        return pickle.loads(zlib.decompress(base64.b64decode(b"".join(pieces))))

    def _wait(self, key: str, rank: int) -> None:
        """Until `rank` has set `key`. Never blocks in the store, which the beating thread needs, too."""
        began = heard = time.monotonic()
        last = self._beats(rank)
        while not self._store.check([key]):
            now, beats = time.monotonic(), self._beats(rank)
            if beats != last:
                last, heard = beats, now
            if self._store.check([f"stopped/{rank}"]):
                raise self._lost(rank, f"stopped: {self._store.get(f'stopped/{rank}').decode()}")
            if beats == 0 and now - began > self._patience.start:
                raise self._lost(rank, f"did not begin within {self._patience.start:g} seconds")
            if beats and now - heard > self._patience.silence:
                raise self._lost(rank, f"died: no sign of life for {self._patience.silence:g} seconds")
            time.sleep(min(POLL, self._patience.beat))

    def _beats(self, rank: int) -> int:
        return self._store.add(f"beats/{rank}", 0)

    def _beat(self) -> None:
        with suppress(RuntimeError):  # a store that is gone is reported by who needs it
            while not self._leaving.is_set():
                self._store.add(f"beats/{self._rank}", 1)
                self._leaving.wait(self._patience.beat)

    def _lost(self, rank: int, why: str) -> LostProcessError:
        return LostProcessError(rank, self._world, why)

    @contextmanager
    def _store_at_hand(self) -> Iterator[None]:
        try:
            yield
        except LostProcessError:
            raise
        except RuntimeError as error:  # torch's DistError, which is not public in all versions, is one
            raise self._lost(0, "is gone, or torchrun is, and with it the store of the run") from error


@contextmanager
def meet(rank: int, world: int, patience: Patience = USUAL) -> Iterator[Peers]:
    """Find the other processes at MASTER_ADDR and MASTER_PORT, and show signs of life until the block ends.

    Raises `LostProcessError` if they do not appear.
    """
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=patience.start)))
    except RuntimeError as error:
        who, why = (0, "cannot be reached") if rank else (1, "or a later one did not begin")
        raise LostProcessError(who, world, f"{why} within {patience.start:g} seconds") from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun's store outlives its processes
    peers = Peers(PrefixStore(f"fxcache/benchmark/{attempt}", store), rank, world, patience)
    thread = threading.Thread(target=peers._beat, name="fxcache signs of life", daemon=True)
    thread.start()
    try:
        yield peers
    except BaseException as error:
        peers.stop(f"{type(error).__name__}: {error}".splitlines()[0])
        raise
    finally:
        peers._leaving.set()
        thread.join(patience.silence)
