from __future__ import annotations

import json
from collections import Counter

import msgspec
import pytest

from protocol.ledger import Ledger
from protocol.messages import PreferencePair
from tests.protocol.examples import result


def balanced() -> Ledger:
    return Ledger(
        leased=10, settled=6, outstanding=3, expired=1, received=9, unique=6, duplicate=2,
        rejected=Counter(unknown_ordinal=1), trained=3, dropped=Counter(stale=1, evaluated=1), queued=1,
    )  # fmt: skip


def test_a_balanced_ledger_has_no_fault() -> None:
    assert balanced().faults() == []


@pytest.mark.parametrize(
    ("count", "identity"),
    [("leased", "leased"), ("expired", "leased"), ("duplicate", "received"), ("trained", "unique"), ("queued", "unique")],
)
def test_a_count_that_is_off_by_one_breaks_its_identity(count: str, identity: str) -> None:
    ledger = balanced()
    setattr(ledger, count, getattr(ledger, count) + 1)
    assert [fault.split()[0] for fault in ledger.faults()] == [identity]


def test_reasons_count_in_the_identities() -> None:
    ledger = balanced()
    ledger.rejected["foreign"] += 1
    ledger.dropped["stale"] += 1
    assert len(ledger.faults()) == 2


def test_its_dictionary_is_json_with_sums_and_reasons() -> None:
    counts = json.loads(json.dumps(balanced().as_dict()))
    assert counts["rejected"] == 1
    assert counts["dropped"] == 2
    assert counts["rejected_reasons"] == {"unknown_ordinal": 1}
    assert counts["dropped_reasons"] == {"stale": 1, "evaluated": 1}


def test_what_arrives_is_counted_in_results_and_in_pairs() -> None:
    ledger = Ledger()
    paired = msgspec.structs.replace(result(0), pairs=[PreferencePair(0, 1), PreferencePair(1, 0)])
    ledger.enter(paired)
    ledger.repeat(paired)
    ledger.repeat(paired)
    ledger.reject(paired, "foreign")
    ledger.reject(result(1), "unregistered")
    assert (ledger.received, ledger.unique, ledger.queued, ledger.duplicate) == (5, 1, 1, 2)
    assert ledger.rejected == Counter(foreign=1, unregistered=1)
    assert (ledger.pairs_received, ledger.pairs_duplicate, ledger.pairs_rejected["foreign"]) == (8, 4, 2)
    assert ledger.faults() == []
