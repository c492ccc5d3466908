"""What is queued, trained and dropped; the identity holds after whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.training import LossSection
from learner.collate import TrainingGroup
from learner.intake import Drop, Intake, find_fault
from protocol.messages import REFERENCE, GroupResult, Outcome, PolicyVersion, Purpose
from tests.learner.groups import completion, group, leased, result

VOCABULARY = 320


def intake(strategy: str = "group", *, lambda_ce: float = 0.2, max_policy_lag: int = 2, ce_utterances: str = "all") -> Intake:
    loss = LossSection(lambda_ce=lambda_ce, ce_utterances=ce_utterances)  # type: ignore[arg-type]
    return Intake(strategy, loss, max_policy_lag, lineage=0, vocabulary=VOCABULARY)  # type: ignore[arg-type]


def paired(step: int = 0, number: int = 0) -> GroupResult:
    return result([completion(0, step=step), completion(1, step=step + 1)], [(1, 0)], ordinal=number)


def balanced(desk: Intake) -> bool:
    counts = desk.counts
    return counts.unique == counts.trained + counts.dropped.total() + desk.queued


def test_pairs_are_trained_in_the_order_they_came() -> None:
    desk = intake()
    first, second = paired(), paired(number=1)
    assert desk.receive(leased(0), first) == ""
    assert desk.take(2, 0) is None
    assert desk.receive(leased(1), second) == ""
    batch = desk.take(2, 0)
    assert batch is not None
    assert [item.result for item in batch.items] == [first, second]
    assert batch.lags == [0, 0]
    assert desk.queued == 2
    desk.trained()
    assert (desk.queued, desk.counts.trained, desk.counts.pairs_trained) == (0, 2, 2)
    assert balanced(desk)


def test_lag_is_that_of_the_oldest_side_and_bounds_what_is_trained() -> None:
    desk = intake(max_policy_lag=2)
    desk.receive(leased(0), paired(step=3))
    desk.receive(leased(1), paired(step=5, number=1))
    batch = desk.take(1, learner_step=6)
    assert batch is not None
    assert batch.lags == [1]
    assert desk.counts.dropped == {Drop.STALE: 1}
    assert desk.counts.pairs_dropped == {Drop.STALE: 1}
    assert balanced(desk)


def test_what_waits_grows_old() -> None:
    desk = intake(max_policy_lag=2)
    desk.receive(leased(0), paired(step=0))
    desk.receive(leased(1), paired(step=5, number=1))
    assert desk.take(3, learner_step=2) is None
    assert desk.queued == 2, "looked at, and fresh at that step"
    desk.receive(leased(2), paired(step=5, number=2))
    batch = desk.take(2, learner_step=5)
    assert batch is not None
    assert [item.result.ordinal for item in batch.items] == [1, 2]
    desk.give_back()
    desk.receive(leased(3), paired(step=2, number=3))
    desk.receive(leased(4), paired(step=5, number=4))
    batch = desk.take(3, learner_step=5)
    assert batch is not None, "one that comes too late is dropped at the step at which others have been looked at"
    assert [item.result.ordinal for item in batch.items] == [1, 2, 4]
    assert desk.counts.dropped == {Drop.STALE: 2}
    desk.skipped()
    assert balanced(desk)


def test_a_completion_that_spans_two_versions_is_as_old_as_its_first_token() -> None:
    desk = intake(max_policy_lag=1)
    mixed = completion(1, step=4)
    mixed.spans = [type(mixed.spans[0])(PolicyVersion(0, 2), 0, 1), type(mixed.spans[0])(PolicyVersion(0, 4), 1, 3)]
    desk.receive(leased(0), result([completion(0, step=4), mixed], [(1, 0)]))
    assert desk.take(1, learner_step=4) is None
    assert desk.counts.dropped == {Drop.STALE: 1}


def test_another_lineage_is_always_stale() -> None:
    desk = intake()
    old = paired()
    for entry in old.completions:
        entry.spans = [type(entry.spans[0])(PolicyVersion(7, 100), 0, 3)]
    desk.receive(leased(0), old)
    assert desk.take(1, learner_step=100) is None
    assert desk.counts.dropped == {Drop.STALE: 1}


@pytest.mark.parametrize("outcome", [Outcome.TIED, Outcome.TRUNCATED, Outcome.UNSCORED])
def test_without_a_pair_the_cross_entropy_still_trains(outcome: Outcome) -> None:
    desk = intake()
    assert desk.receive(leased(0), result([completion(0)], outcome=outcome)) == ""
    batch = desk.take(1, learner_step=50)  # the reference does not age
    assert batch is not None
    assert batch.lags == []
    without = intake(lambda_ce=0)
    assert without.receive(leased(0), result([completion(0)], outcome=outcome)) == Drop.NO_SIGNAL
    only_pairs = intake(ce_utterances="pair")
    assert only_pairs.receive(leased(0), result([completion(0)], outcome=outcome)) == Drop.NO_SIGNAL
    assert balanced(desk)
    assert balanced(without)


def test_sft_trains_whatever_lambda_is() -> None:
    desk = intake("sft", lambda_ce=0)
    assert desk.receive(leased(0), result(outcome=Outcome.REFERENCE_ONLY)) == ""
    assert desk.take(1, 0) is not None


def test_filtered_and_evaluated_train_nobody() -> None:
    desk = intake()
    assert desk.receive(leased(0), result(outcome=Outcome.FILTERED)).startswith(Drop.FILTERED)
    assert "no such file" in desk.receive(leased(0), paired(), unusable="no such file")
    evaluated = result(outcome=Outcome.EVALUATED)
    evaluated.purpose = Purpose.EVALUATE
    assert desk.receive(leased(1, Purpose.EVALUATE), evaluated) == Drop.EVALUATED
    assert desk.receive(None, paired()).startswith(Drop.INVALID)
    assert desk.queued == 0
    assert balanced(desk)


def test_a_skipped_step_drops_its_batch() -> None:
    desk = intake()
    desk.receive(leased(0), paired())
    desk.take(1, 0)
    desk.skipped()
    assert desk.counts.dropped == {Drop.NONFINITE: 1}
    desk.receive(leased(1), paired(number=1))
    desk.clear()
    assert desk.counts.dropped[Drop.STOPPED] == 1
    assert balanced(desk)


def test_after_a_rollback_older_samples_are_stale_and_groups_set_aside_train_no_more() -> None:
    desk = intake(max_policy_lag=5)
    for number in range(3):
        desk.receive(leased(number), paired(step=6, number=number))
    desk.receive(leased(3), result([completion(0), completion(1)], ordinal=3))  # a tie trains the cross-entropy alone, which nobody sampled
    desk.set_aside(["group-0"], learner_step=7)
    assert desk.counts.dropped == {Drop.SET_ASIDE: 1}
    assert desk.receive(leased(0), paired(step=7)) == Drop.SET_ASIDE
    assert desk.receive(leased(4), paired(step=7, number=4)) == ""
    batch = desk.take(2, learner_step=7)
    assert batch is not None
    assert [item.group.group_id for item in batch.items] == ["group-3", "group-4"]
    assert batch.lags == [0]
    assert desk.counts.dropped == {Drop.SET_ASIDE: 2, Drop.STALE: 2}
    assert desk.counts.pairs_dropped == {Drop.SET_ASIDE: 2, Drop.STALE: 2}
    assert balanced(desk)


BROKEN = {
    "utterance": result([completion(9), completion(1)], [(1, 0)]),
    "vocabulary": result([completion(0, [5, VOCABULARY]), completion(1)], [(1, 0)]),
    "not there": result([completion(0), completion(1)], [(5, 0)]),
    "truncated chosen": result([completion(0), completion(1, finish="length")], [(1, 0)]),
    "two answers to one voice": result([completion(0), completion(0)], [(1, 0)]),
    "answer to text": result([completion(3), completion(1)], [(1, 0)]),
    "empty answer": result([completion(0, []), completion(1)], [(1, 0)]),
    "does not belong": result([completion(0), completion(1)], [(REFERENCE, 0)]),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_result_that_breaks_the_rules_is_dropped(fault: str) -> None:
    desk = intake()
    assert fault in desk.receive(leased(0, text=True), BROKEN[fault])
    assert desk.counts.dropped == {Drop.INVALID: 1}
    assert balanced(desk)


def test_rules_of_single() -> None:
    single = TrainingGroup(group(), result([completion(0), completion(1)], [(REFERENCE, 0), (REFERENCE, 1)]))
    assert find_fault(single, "single", VOCABULARY) == ""
    truncated = TrainingGroup(group(), result([completion(0, finish="length")], [(REFERENCE, 0)]))
    assert find_fault(truncated, "single", VOCABULARY) == ""
    assert "does not belong" in find_fault(TrainingGroup(group(), paired()), "single", VOCABULARY)
    assert "no pairs" in find_fault(single, "sft", VOCABULARY)


def test_rules_of_the_hybrid() -> None:
    mixed = TrainingGroup(group(), result([completion(0), completion(1)], [(REFERENCE, 0), (1, 0)]))
    assert find_fault(mixed, "hybrid", VOCABULARY) == ""
    one_voice = TrainingGroup(group(), result([completion(0), completion(0)], [(1, 0)]))
    assert "two answers to one voice" in find_fault(one_voice, "hybrid", VOCABULARY)


def test_answers_to_text_are_compared_where_nobody_speaks() -> None:
    written = TrainingGroup(group(voices=0, text=True), result([completion(0)], [(REFERENCE, 0)]))
    assert find_fault(written, "single", VOCABULARY) == ""


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("receive"), st.sampled_from(list(Outcome)), st.integers(0, 6)),
            st.tuples(st.just("take"), st.integers(1, 3)),
            st.tuples(st.just("set_aside"), st.integers(0, 20)),
        ),
        max_size=40,
    ),
    lambda_ce=st.sampled_from([0.0, 0.2]),
)
def test_every_unique_result_is_in_exactly_one_place(steps: list[tuple[object, ...]], lambda_ce: float) -> None:
    desk, ordinal, learner_step = intake(lambda_ce=lambda_ce), 0, 0
    for step in steps:
        if step[0] == "receive":
            outcome, version = step[1], step[2]
            arrived = paired(int(str(version))) if outcome is Outcome.PAIRS else result(outcome=Outcome(str(outcome)))
            desk.receive(leased(ordinal), arrived)
            ordinal += 1
        elif step[0] == "set_aside":
            desk.set_aside([f"group-{step[1]}"], learner_step)
        elif desk.take(int(str(step[1])), learner_step) is not None:
            assert balanced(desk)
            learner_step += 1
            desk.trained() if learner_step % 3 else desk.skipped()
        assert balanced(desk)
    desk.clear()
    assert desk.queued == 0
    assert balanced(desk)
