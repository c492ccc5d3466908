from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from actors.rollout.pairing import pair, same_text
from configs.sampling import PairingSection
from protocol.messages import REFERENCE, Completion, Outcome, PreferencePair
from tests.actors.rollout.scripted import answers, group


def test_group_takes_the_best_and_the_worst_voice() -> None:
    paired = pair("group", group(), answers(("b", 0.5), ("a", 0.9), ("c", 0.1)))
    assert (paired.outcome, paired.pairs) == (Outcome.PAIRS, [PreferencePair(1, 2)])


def test_an_answer_to_text_never_enters_a_pair() -> None:
    completions = answers(("good", 0.5), ("bad", 0.4), ("worse", 0.3), ("perfect", 1.0))
    assert pair("group", group(), completions).pairs == [PreferencePair(0, 2)]
    assert pair("single", group(), completions).pairs == [PreferencePair(REFERENCE, index) for index in range(3)]


def test_a_truncated_answer_is_never_chosen_but_may_be_rejected() -> None:
    best_cut_off = answers(("best", 0.9, "length"), ("good", 0.5), ("bad", 0.1))
    assert pair("group", group(), best_cut_off).pairs == [PreferencePair(1, 2)]
    worst_cut_off = answers(("best", 0.9), ("good", 0.5), ("bad", 0.1, "length"))
    assert pair("group", group(), worst_cut_off).pairs == [PreferencePair(0, 2)]


def test_without_an_answer_that_may_be_chosen_the_group_is_truncated() -> None:
    assert pair("group", group(), answers(("a", 0.9, "length"), ("b", 0.5, "length"))).outcome is Outcome.TRUNCATED
    only_the_worst_ended = answers(("a", 0.9, "length"), ("b", 0.5, "length"), ("c", 0.1))
    assert pair("group", group(), only_the_worst_ended).outcome is Outcome.TRUNCATED


def test_equal_texts_and_equal_rewards_are_ties() -> None:
    assert pair("group", group(), answers(("same", 0.9), ("same ", 0.1))).outcome is Outcome.TIED
    assert pair("group", group(), answers(("one", 0.5), ("two", 0.5))).outcome is Outcome.TIED


def test_a_text_that_equals_the_best_one_is_not_rejected() -> None:
    assert pair("group", group(), answers(("same", 0.9), ("other", 0.2), ("same", 0.1))).pairs == [PreferencePair(0, 1)]


def test_rewards_closer_than_the_margin_are_a_tie() -> None:
    completions = answers(("a", 0.5), ("b", 0.25))
    assert pair("group", group(), completions, PairingSection(min_margin=0.26)).outcome is Outcome.TIED
    assert pair("group", group(), completions, PairingSection(min_margin=0.25)).outcome is Outcome.PAIRS


def test_unscored_answers_are_left_out_and_say_why() -> None:
    paired = pair("group", group(), answers(("a", None), ("b", 0.2), ("c", 0.1)))
    assert paired.pairs == [PreferencePair(1, 2)]
    paired = pair("group", group(), answers(("a", None), ("b", 0.2), ("c", None)))
    assert paired.outcome is Outcome.UNSCORED
    assert "connect: nobody there" in paired.reason
    assert pair("group", group(), answers(("a", math.nan), ("b", 0.2))).outcome is Outcome.UNSCORED


def test_two_answers_to_one_voice_are_no_pair() -> None:
    assert pair("group", group(), answers(("a", 0.9), ("b", 0.1), utterances=[1, 1])).outcome is Outcome.TIED


def test_single_rejects_each_answer_that_differs_from_the_reference() -> None:
    paired = pair("single", group(), answers(("the answer ", None), ("wrong", None, "length"), ("else", None)))
    assert (paired.outcome, paired.pairs) == (Outcome.PAIRS, [PreferencePair(REFERENCE, 1), PreferencePair(REFERENCE, 2)])
    assert pair("single", group(), answers(("the answer", None))).outcome is Outcome.TIED


def test_sft_pairs_nothing() -> None:
    assert pair("sft", group(), []).outcome is Outcome.REFERENCE_ONLY


@st.composite
def completions_of_a_group(draw: st.DrawFn) -> list[Completion]:
    answered = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["a", "b", "c ", "c", ""]),
                st.none() | st.floats(-2, 2) | st.just(math.nan),
                st.sampled_from(["stop", "length", "abort"]),
            ),
            max_size=4,
        )
    )
    made = answers(*answered)
    for each in made:
        each.token_ids = draw(st.sampled_from([b"", b"\1\0\0\0"]))
    return made


def test_all_pairs_every_better_answer_with_every_worse_one_of_another_voice() -> None:
    every = PairingSection(pairs="all", min_margin=0.2)
    completions = answers(("b", 0.5), ("a", 0.9), ("c", 0.4), utterances=[0, 1, 2])
    assert pair("group", group(), completions, every).pairs == [PreferencePair(1, 0), PreferencePair(1, 2)]
    cut_off = answers(("b", 0.5), ("a", 0.9, "length"), ("c", 0.1))
    assert pair("group", group(), cut_off, every).pairs == [PreferencePair(0, 2)]


def test_the_hybrid_lets_the_reference_win_but_never_lose() -> None:
    completions = answers(("b", 0.5), ("c", 0.1))
    assert pair("hybrid", group(), completions, reference=0.9).pairs == [PreferencePair(REFERENCE, 1)]
    assert pair("hybrid", group(), completions, reference=0.3).pairs == [PreferencePair(0, 1)]
    assert pair("hybrid", group(), completions, reference=-1.0).pairs == [PreferencePair(0, 1)]
    assert pair("hybrid", group(), completions, reference=None).pairs == [PreferencePair(0, 1)]


def test_the_hybrid_learns_where_every_voice_fails_alike() -> None:
    same = answers(("wrong", 0.1), ("wrong", 0.1))
    assert pair("group", group(), same).outcome is Outcome.TIED
    assert pair("hybrid", group(), same, reference=0.9).pairs == [PreferencePair(REFERENCE, 0)]
    right = answers(("the answer", 0.9), ("the answer", 0.9))
    assert pair("hybrid", group(), right, reference=0.9).outcome is Outcome.TIED


@given(
    completions_of_a_group(),
    st.floats(0, 1),
    st.sampled_from(["group", "single", "hybrid"]),
    st.sampled_from(["best_worst", "all"]),
    st.none() | st.floats(-2, 2) | st.just(math.nan),
)
def test_every_pair_obeys_the_rules(
    completions: list[Completion], min_margin: float, strategy: str, pairs: str, reference: float | None
) -> None:
    asked = group()
    section = PairingSection(pairs=pairs, min_margin=min_margin)  # type: ignore[arg-type]
    paired = pair(strategy, asked, completions, section, reference)  # type: ignore[arg-type]
    assert (paired.outcome is Outcome.PAIRS) == bool(paired.pairs)
    assert bool(paired.reason) != bool(paired.pairs)
    assert strategy == "single" or pairs == "all" or len(paired.pairs) <= 1
    for one in paired.pairs:
        rejected = completions[one.rejected]
        assert rejected.token_ids
        assert asked.utterances[rejected.utterance].audio is not None
        if strategy == "single" or one.chosen == REFERENCE:
            assert one.chosen == REFERENCE
            assert strategy != "group"
            assert not same_text(rejected.text, asked.reference)
            continue
        chosen = completions[one.chosen]
        assert chosen.finish_reason == "stop"
        assert chosen.token_ids
        assert asked.utterances[chosen.utterance].audio is not None
        assert chosen.utterance != rejected.utterance
        assert not same_text(chosen.text, rejected.text)
        assert chosen.reward is not None
        assert rejected.reward is not None
        assert chosen.reward - rejected.reward >= max(min_margin, 1e-300)
        heard = [each for each in completions[:3] if each.token_ids and each.reward is not None and not math.isnan(each.reward)]
        assert chosen.reward == max(each.reward for each in heard if each.finish_reason == "stop")  # type: ignore[type-var]
