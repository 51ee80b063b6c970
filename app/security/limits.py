"""How much each key has used, and which addresses guess at keys: in memory that all processes of the service share.

Rates are kept as the time at which all that was spent is paid off (GCRA: ITU-T I.371, "virtual scheduling"), so that an
account is one number, and nothing has to be counted down.

How exact they are with several processes: where two charge one account within the same fraction of a microsecond, one
charge may be lost; of requests that begin at the same moment, one for each further process may pass beyond a limit of
concurrency. Locks would be exact, and would stay locked when a process is killed.
"""

import ipaddress
import mmap
from collections.abc import Callable
from typing import Final
from zlib import crc32

from app.errors import QuotaExceeded
from app.security.keys import MOST_KEYS, Caller, Limits

_BURST: Final = 1.0
"""Seconds whose worth may be spent at once."""
_EXACT: Final = 1e-9
_ADDRESSES: Final = 4096
_GUESS_SECONDS: Final = 6.0
_GUESSES: Final = 10
"""Wrong keys that one address may send at once, and then one more each six seconds: ten a minute."""
_REQUESTS, _PIXELS = range(2)


def wait(paid_at: float, now: float, cost: float, burst: float) -> float:
    """Seconds until `cost` seconds' worth may be spent, where `burst` seconds' worth may be at once; 0 for now."""
    due = paid_at - max(0.0, burst - cost) - now
    return due if due > _EXACT else 0.0


class Accounts:
    """What all keys have used, made before the service forks: a row for each key, in it a column for the requests under
    way of each process."""

    def __init__(self, processes: int = 1) -> None:
        self.processes = processes
        rates = memoryview(mmap.mmap(-1, 8 * (2 * MOST_KEYS + _ADDRESSES))).cast("d")
        self.paid = rates[: 2 * MOST_KEYS]
        self.guesses = rates[2 * MOST_KEYS :]
        self.under_way = memoryview(mmap.mmap(-1, 8 * processes * MOST_KEYS)).cast("q")


class Quotas:
    """Admits requests of the keys that have limits, in one process."""

    def __init__(self, accounts: Accounts, process: int, clock: Callable[[], float]) -> None:
        self._paid = accounts.paid
        self._under_way = accounts.under_way
        self._processes = accounts.processes
        self._process = process
        self._clock = clock
        for row in range(MOST_KEYS):  # what a predecessor left under way is under way no more
            self._under_way[row * self._processes + process] = 0

    def under_way(self, row: int) -> int:
        """Requests of a key that are being answered, in all processes."""
        return sum(self._under_way[row * self._processes : (row + 1) * self._processes])

    def admit(self, caller: Caller, limits: Limits) -> None:
        """Let one request of a key begin; `leave` has to follow.

        Raises:
            QuotaExceeded: one of its limits is reached; nothing is charged.
        """
        now = self._clock()
        requests = 2 * caller.row + _REQUESTS
        if limits.concurrency is not None and self.under_way(caller.row) >= limits.concurrency:
            raise QuotaExceeded(f"{limits.concurrency} requests at a time", 1.0)
        if limits.pixels_per_second is not None:
            self._check(2 * caller.row + _PIXELS, now, 0.0, f"{limits.pixels_per_second:.0f} pixels a second")
        if limits.requests_per_second is not None:
            cost = 1 / limits.requests_per_second
            self._check(requests, now, cost, f"{limits.requests_per_second:g} requests a second")
            self._spend(requests, now, cost)
        self._under_way[caller.row * self._processes + self._process] += 1

    def leave(self, caller: Caller, limits: Limits, pixels: int) -> None:
        """A request that was admitted has ended, for which so many pixels were decoded. They are paid for afterwards,
        when they are known: one request may overdraw its account, and the next ones wait until that is paid."""
        self._under_way[caller.row * self._processes + self._process] -= 1
        self.spend(caller, limits, pixels)

    def spend(self, caller: Caller, limits: Limits, pixels: int) -> None:
        """Charge pixels that were decoded."""
        if limits.pixels_per_second is not None and pixels:
            self._spend(2 * caller.row + _PIXELS, self._clock(), pixels / limits.pixels_per_second)

    def owed(self, caller: Caller, limits: Limits) -> float:
        """Seconds until the pixels of a key are paid, as far as they have to be before more are decoded."""
        if limits.pixels_per_second is None:
            return 0.0
        return wait(self._paid[2 * caller.row + _PIXELS], self._clock(), 0.0, _BURST)

    def _check(self, account: int, now: float, cost: float, limit: str) -> None:
        if seconds := wait(self._paid[account], now, cost, _BURST):
            raise QuotaExceeded(limit, seconds)

    def _spend(self, account: int, now: float, cost: float) -> None:
        self._paid[account] = max(self._paid[account], now) + cost


class Guesses:
    """Counts wrong keys by the address that sent them. Right keys are let in whatever their address has guessed: the
    callers behind a proxy share one, and 256 bits are not guessed."""

    def __init__(self, accounts: Accounts, clock: Callable[[], float]) -> None:
        self._paid = accounts.guesses
        self._clock = clock

    def failed(self, address: str) -> float:
        """A wrong key came from this address: seconds until it may try again, 0 where it may at once."""
        now = self._clock()
        place = crc32(_network(address)) % _ADDRESSES  # who shares a place with a guesser is told 429 and not 401
        seconds = wait(self._paid[place], now, _GUESS_SECONDS, _GUESSES * _GUESS_SECONDS)
        if not seconds:
            self._paid[place] = max(self._paid[place], now) + _GUESS_SECONDS
        return seconds


def _network(address: str) -> bytes:
    """What one caller has: an address of IPv4, the 64 bits of a network of IPv6."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address.encode()
    return found.packed if found.version == 4 else found.packed[:8]
