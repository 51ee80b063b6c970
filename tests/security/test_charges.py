"""What is done for a key outside of its requests is charged to the same account."""

from pathlib import Path

import pytest

from app.errors import QuotaExceeded, Unauthenticated
from app.security.charges import KeyCharges
from app.security.key_file import KeyFile, KeyRing
from app.security.keys import INFER, NO_LIMITS, Limits
from app.security.limits import Accounts, Quotas
from tests.api.doors import Keys
from tests.security.test_limits import Clock


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys.json")


def test_pixels_are_owed_until_they_are_paid_and_keep_requests_out(keys: Keys) -> None:
    limits = Limits(pixels_per_second=100)
    identity = keys.add(INFER, limits=limits).split("_")[1]
    clock, ring = Clock(), KeyRing(KeyFile(keys.path))
    quotas = Quotas(Accounts(), 0, clock)
    charges = KeyCharges(ring, quotas)
    assert charges.owed(identity) == 0
    charges.charge(identity, 1000)
    assert charges.owed(identity) == pytest.approx(9)
    caller = ring.get(identity, 0, 0)
    assert caller is not None
    with pytest.raises(QuotaExceeded):
        quotas.admit(caller, limits)
    clock.now += 9
    assert charges.owed(identity) == 0


def test_a_key_without_limits_owes_nothing(keys: Keys) -> None:
    identity = keys.add(INFER, limits=NO_LIMITS).split("_")[1]
    charges = KeyCharges(KeyRing(KeyFile(keys.path)), Quotas(Accounts(), 0, Clock()))
    charges.charge(identity, 10**12)
    assert charges.owed(identity) == 0


def test_a_key_that_is_gone_is_told(keys: Keys) -> None:
    keys.add(INFER)
    charges = KeyCharges(KeyRing(KeyFile(keys.path)), Quotas(Accounts(), 0, Clock()))
    with pytest.raises(Unauthenticated):
        charges.owed("00000000")
