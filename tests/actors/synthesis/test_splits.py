from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from actors.synthesis.filters.normal import normal
from actors.synthesis.records import Draft
from actors.synthesis.splits import Splits
from configs.selection import SplitsSection
from configs.synthesis import SynthesisConfig
from configs.teaching import LanguageModelSection


def staged(drafts: list[Draft], seed: int = 0, committed: Sequence[Draft] = (), **options: Any) -> list[Draft]:
    """What the stage makes of the drafts behind those that are `committed`."""
    stage = Splits(SynthesisConfig(teacher=LanguageModelSection(model="none"), seed=seed, splits=SplitsSection(**options)))
    stage.survey(iter(drafts))
    stage.recall(committed)
    with stage:
        return stage.run(0, [draft for draft in drafts if draft.kept][len(committed) :])


def splits(drafts: list[Draft], seed: int = 0, **options: Any) -> dict[str, str]:
    return {draft.id: draft.rejected or draft.split for draft in staged(drafts, seed, **options)}


def of_topic(topic: str, count: int) -> list[Draft]:
    return [Draft(id=f"{topic}{place}", instruction=f"{topic} {place}", topic=topic) for place in range(count)]


def test_each_topic_gives_its_share() -> None:
    drafts = of_topic("a", 2000) + of_topic("b", 101) + of_topic("c", 4)
    found = splits(drafts)
    counts = {topic: Counter(found[draft.id] for draft in drafts if draft.topic == topic) for topic in "abc"}
    assert counts == {
        "a": {"test": 200, "validation": 128, "train": 1672},
        "b": {"test": 20, "validation": 20, "train": 61},
        "c": {"train": 4},
    }
    assert Counter(splits(drafts, most_of_topic=0.5, test_per_topic=60, validation_per_topic=7).values())["test"] == 60 + 50 + 2


def test_they_depend_on_the_seed_and_not_on_the_order() -> None:
    drafts = of_topic("a", 300)
    assert splits(drafts) == splits(drafts[::-1])
    assert splits(drafts) != splits(drafts, seed=1)


def test_rejected_drafts_take_no_place() -> None:
    drafts = of_topic("a", 300)
    others = [Draft(id=f"x{place}", instruction=f"x {place}", topic="a", rejected="filter: code") for place in range(900)]
    assert splits(drafts + others) == splits(drafts)


def test_a_corpus_keeps_its_own_splits() -> None:
    drafts = [Draft(id=f"d{place}", instruction=f"x {place}", split=("train", "test", "")[place % 3]) for place in range(90)]
    drafts.append(Draft(id="again", instruction="X 1!", split="train"))
    found = splits(drafts)
    assert all(found[draft.id] == draft.split for draft in drafts[:90] if draft.split)
    assert found["again"] == "splits: held out"
    assert set(splits(drafts, keep=False, most_of_topic=0).values()) == {"train"}
    assert Counter(found[draft.id] for draft in drafts if not draft.split) == {"test": 6, "validation": 6, "train": 18}


TEXTS = st.sampled_from(["Say red.", "say red", "SAY  RED!", "say blue", "say green", "say pink", "say brown"])
DRAFTS = st.lists(st.tuples(TEXTS, st.sampled_from("ab"), st.sampled_from(["", "", "train", "validation", "test"])), max_size=60)


@given(DRAFTS, st.integers(0, 3))
def test_one_instruction_is_on_one_side(given: list[tuple[str, str, str]], seed: int) -> None:
    drafts = [Draft(id=f"d{place}", instruction=text, topic=topic, split=split) for place, (text, topic, split) in enumerate(given)]
    found = splits(drafts, seed, most_of_topic=0.5)
    sides: dict[str, set[str]] = {}
    for draft in drafts:
        if found[draft.id] != "splits: held out":
            sides.setdefault(normal(draft.instruction), set()).add(found[draft.id])
            assert draft.split in ("", found[draft.id])
    assert all(len(side) == 1 for side in sides.values())


@given(DRAFTS, st.integers(0, 60))
def test_a_stage_that_was_interrupted_anywhere_decides_as_one_that_never_was(given: list[tuple[str, str, str]], done: int) -> None:
    drafts = [Draft(id=f"d{place}", instruction=text, topic=topic, split=split) for place, (text, topic, split) in enumerate(given)]
    whole = staged(drafts, most_of_topic=0.5)
    assert staged(drafts, committed=whole[:done], most_of_topic=0.5) == whole[done:]


def test_what_is_added_later_moves_nothing_and_makes_the_shares_whole() -> None:
    drafts = of_topic("a", 3000)
    first = staged(drafts[:300])
    assert Counter(draft.split for draft in first) == {"test": 60, "validation": 60, "train": 180}
    second = staged(drafts, committed=first)
    assert Counter(draft.split for draft in second) == {"test": 140, "validation": 68, "train": 2492}
    again = Draft(id="again", instruction=next(draft.instruction for draft in first if draft.split == "test").upper(), topic="b")
    assert staged([*drafts[:300], again], committed=first)[0].split == "test"


def test_a_corpus_cannot_hold_out_what_is_trained_on_already() -> None:
    first = staged([Draft(id="d0", instruction="x", split="train")])
    (late,) = staged([*first, Draft(id="d1", instruction="X!", split="test")], committed=first)
    assert (late.rejected, late.detail) == ("splits: held out", "train")
