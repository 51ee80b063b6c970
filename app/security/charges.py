"""Charges a key for what is done for it outside of its requests: those who have time pay as callers do."""

import time

from app.errors import Unauthenticated
from app.security.key_file import KeyRing
from app.security.keys import Caller
from app.security.limits import Quotas


class KeyCharges:
    """The accounts of keys, by their ids."""

    def __init__(self, keys: KeyRing, quotas: Quotas) -> None:
        self._keys = keys
        self._quotas = quotas

    def owed(self, key: str) -> float:
        """Seconds until more may be done for a key.

        Raises:
            Unauthenticated: it was revoked, or has expired.
        """
        caller = self._find(key)
        return 0.0 if caller.limits is None else self._quotas.owed(caller, caller.limits)

    def charge(self, key: str, pixels: int) -> None:
        """So many pixels were decoded for a key; raises as `owed`."""
        caller = self._find(key)
        if caller.limits is not None:
            self._quotas.spend(caller, caller.limits, pixels)

    def _find(self, key: str) -> Caller:
        caller = self._keys.get(key, time.monotonic(), time.time())
        if caller is None:
            raise Unauthenticated("The API key that this was sent with has expired or was revoked.")
        return caller
