"""Places for connections: a share for each holder, given back once, and nothing kept of who has left."""

from __future__ import annotations

from compliance.connections import Shares


def test_each_key_has_its_share_and_gets_it_back() -> None:
    shares = Shares[bytes](2)
    leave = [shares.enter(b"a"), shares.enter(b"a")]
    assert None not in leave
    assert shares.enter(b"a") is None
    assert shares.enter(b"b") is not None
    for one in leave[:1] * 3:  # asked three times, given back once
        assert one is not None
        one()
    assert shares.enter(b"a") is not None
    assert shares.enter(b"a") is None


def test_who_has_left_is_forgotten() -> None:
    shares = Shares[bytes](16)
    for i in range(1000):
        leave = shares.enter(i.to_bytes(4))
        assert leave is not None
        leave()
    assert not shares._held
