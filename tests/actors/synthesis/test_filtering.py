from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from actors.synthesis.filtering import Filtering
from actors.synthesis.records import Draft
from configs.selection import FilterSection
from configs.synthesis import SynthesisConfig
from configs.teaching import LanguageModelSection
from protocol.errors import UserError

RANDOM = random.Random(5)
NOUNS = ["dog", "ship", "city", "song", "river", "tower", "garden", "window", "island", "doctor", "teacher", "engine"]


def filtering(**options: Any) -> Filtering:
    return Filtering(SynthesisConfig(teacher=LanguageModelSection(model="none"), filter=FilterSection(**options)))


def drafts(count: int) -> list[Draft]:
    made: list[Draft] = []
    for number in range(count):
        nouns = " ".join(RANDOM.choices(NOUNS, k=12))
        text = f"please tell me about a {nouns}"
        match number % 5:
            case 1:
                text = f"Solve 2x + {number} = 7"
            case 2:
                text = made[RANDOM.randrange(len(made))].instruction.upper()
            case 3:
                text = made[RANDOM.randrange(len(made))].instruction + " again"
        made.append(Draft(id=f"d{number}", instruction=text, reference="Of course."))
    return made


def test_every_draft_comes_back_with_its_reason() -> None:
    texts = ["What is the capital of Peru?", "what is the capital of peru", "Hello", "Tell me a joke", "Solve 2x = 7 now"]
    given = [Draft(id=f"d{place}", instruction=text, reference="Lima.") for place, text in enumerate(texts)]
    returned = filtering().run(0, given)
    assert [(draft.id, draft.rejected, draft.detail) for draft in returned] == [
        ("d0", "", ""), ("d1", "filter: duplicate", "d0"), ("d2", "filter: too short", "1 words"), ("d3", "", ""),
        ("d4", "filter: mathematics", "2x"),
    ]  # fmt: skip
    assert {draft.rejected.removeprefix("filter: ") for draft in returned if draft.rejected} <= set(Filtering.reasons)


@pytest.mark.parametrize("ends_after", range(0, 13, 3))
def test_a_later_life_decides_as_the_first_would_have(ends_after: int) -> None:
    given = drafts(13 * 20)
    blocks = [given[start : start + 20] for start in range(0, len(given), 20)]
    first = filtering()
    whole = [first.run(number, block) for number, block in enumerate(blocks)]
    assert {draft.rejected for block in whole for draft in block} == {
        "", "filter: mathematics", "filter: duplicate", "filter: near duplicate",
    }  # fmt: skip
    again = filtering()
    for block in whole[:ends_after]:
        again.recall(block)
    assert [again.run(number, blocks[number]) for number in range(ends_after, len(blocks))] == whole[ends_after:]


def test_switched_off_it_lets_everything_through() -> None:
    given = drafts(20)
    assert filtering(enabled=False).run(0, given) == given


def test_duplicates_alone_can_be_switched_off() -> None:
    given = [Draft(id=name, instruction="Tell me a joke", reference="No.") for name in "ab"]
    assert filtering(duplicates=False).run(0, given) == given


@pytest.mark.parametrize("place", ["{}", "file://{}", "local://{}"])
def test_what_is_for_measuring_is_kept_out(tmp_path: Path, place: str) -> None:
    manifest = tmp_path / "test.jsonl"
    manifest.write_text('{"group_id": "g", "instruction": "Tell me a joke!", "reference": "No."}\n\n{"instruction": "Sing a song"}\n')
    texts = ["tell me a joke", "tell me two jokes", "sing a song"]
    given = [Draft(id=text, instruction=text, reference="No.") for text in texts]
    returned = filtering(kept_out=(place.format(manifest),), near_duplicates=None).run(0, given)
    assert [draft.rejected for draft in returned] == ["filter: kept out", "", "filter: kept out"]
    assert "kept out" in Filtering.reasons


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        (b"{", "line 1"),
        (b'{"instruction": "a"}\n{"text": "a"}\n', "line 2"),
        (b'{"instruction": "\xff"}', "line 1"),
    ],
)
def test_a_manifest_that_is_none(tmp_path: Path, content: bytes | None, said: str) -> None:
    manifest = tmp_path / "test.jsonl"
    if content is not None:
        manifest.write_bytes(content)
    with pytest.raises(UserError, match=said):
        filtering(kept_out=(str(manifest),))
