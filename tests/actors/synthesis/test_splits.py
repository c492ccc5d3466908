from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from actors.synthesis.filters.normal import normal
from actors.synthesis.records import Draft
from actors.synthesis.splits import Splits
from configs.selection import SplitsSection
from configs.synthesis import SynthesisConfig
from configs.teaching import LanguageModelSection


def splits(drafts: list[Draft], seed: int = 0, **options: Any) -> dict[str, str]:
    stage = Splits(SynthesisConfig(teacher=LanguageModelSection(model="none"), seed=seed, splits=SplitsSection(**options)))
    stage.survey(iter(drafts))
    return {draft.id: draft.rejected or draft.split for draft in stage.run(0, [draft for draft in drafts if draft.kept])}


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


def test_a_stage_that_starts_again_decides_the_same_whatever_block_it_is_handed() -> None:
    drafts = of_topic("a", 100)
    whole = splits(drafts)
    config = SynthesisConfig(teacher=LanguageModelSection(model="none"))
    again = Splits(config)
    again.survey(drafts)
    assert {draft.id: draft.split for draft in again.run(7, drafts[40:60])} == {draft.id: whole[draft.id] for draft in drafts[40:60]}
