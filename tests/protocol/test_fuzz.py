"""A seeded part of `tests.protocol.fuzz`."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.keyring import Keyring
from tests.protocol import fuzz


def test_whatever_is_decoded_becomes_a_message_or_a_protocol_error() -> None:
    became = fuzz.decode(60_000, seed=1)
    assert became.total() == 60_000
    assert set(became) == {"read", "bad_magic", "other_version", "bad_message"}
    assert became["read"] > 1_000


@pytest.mark.parametrize("guarded", [False, True], ids=["open", "keys"])
def test_an_endpoint_under_attack_serves_who_comes_in_good_faith(guarded: bool, tmp_path: Path) -> None:
    keys = Keyring(tmp_path / "keys") if guarded else None
    if keys is not None:
        keys.complete()
    found = fuzz.at_an_endpoint(6_000, 1, tmp_path, keys)
    assert {"bad_magic", "bad_message", "other_version"} <= found["refused"].keys()
    assert {"foreign", "unregistered"} <= found["rejected"].keys()
    assert found["faults"] == []
    assert found["good_acknowledged"] > 100
    assert found["log_bytes"] < 100_000, "who may say what they like must not fill the disk"
    assert found["after"]["descriptors"] <= found["before"]["descriptors"] + 2
    assert found["after"]["rss_bytes"] - found["warm"]["rss_bytes"] < 64 << 20
