from __future__ import annotations

import msgspec
import pytest

from learner.evaluation import Evaluation
from protocol.measures import GroupMeasures
from protocol.messages import Outcome, PolicyVersion, Purpose
from tests.learner.groups import leased, result


def measures(exact: int, consistency: float) -> GroupMeasures:
    return GroupMeasures(answers=4, exact=exact, bleu_counts=[8, 8, 8, 7, 6, 5, 8, 7, 6, 5], consistency=consistency, agreement=1.0)


def test_figures_once_every_group_is_in() -> None:
    entries = [msgspec.structs.replace(leased(number, Purpose.EVALUATE), ordinal=10 + number) for number in range(3)]
    entries[2] = msgspec.structs.replace(entries[2], group=msgspec.structs.replace(entries[2].group, topic="capitals"))
    evaluation = Evaluation("before", PolicyVersion(0, 0), entries)
    for number, exact in ((0, 4), (2, 1)):
        answered = result(outcome=Outcome.EVALUATED, ordinal=10 + number)
        answered.measures = measures(exact, 0.5)
        evaluation.receive(answered)
        evaluation.receive(answered)  # counts once
    assert not evaluation.done
    assert evaluation.waiting == 1
    evaluation.receive(result(outcome=Outcome.PAIRS, ordinal=99))
    evaluation.receive(result(outcome=Outcome.FILTERED, ordinal=11))
    assert evaluation.done
    assert evaluation.unmeasured == 1
    assert evaluation.figures()["accuracy"] == pytest.approx(5 / 8)
    assert evaluation.figures()["bleu"] == pytest.approx(100.0)
    assert evaluation.topics()["capitals"]["accuracy"] == pytest.approx(1 / 4)
    assert set(evaluation.topics()) == {"capitals", "sums"}
    assert [(row["topic"], row["exact"]) for row in evaluation.rows] == [("sums", 4), ("capitals", 1)]
