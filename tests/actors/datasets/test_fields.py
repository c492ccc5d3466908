from __future__ import annotations

from typing import Any

import pytest

from actors.datasets.fields import Fields, Texts
from actors.datasets.records import Clip, Record, RefusedError
from protocol.errors import UserError


def record(clip: Clip | None = Clip(b""), **values: Any) -> Record:  # noqa: B008 - frozen
    return Record("rows, row 4", values, clip)


def texts(record: Record, *columns: str, constants: tuple[str, ...] = ()) -> Texts:
    return Fields.parse(columns, constants).texts(record)


def test_the_usual_names_are_found() -> None:
    assert texts(record(text="hi", answer="hello", speaker_id=17, group_id=3, language="de")) == Texts(
        instruction="hi", reference="hello", speaker="17", group="3", language="de"
    )


def test_a_prompt_is_the_instruction_where_nothing_else_is() -> None:
    """As in VoiceBench; beside an instruction it is the task's."""
    only = texts(record(prompt="hi", reference="hello"))
    assert (only.instruction, only.prompt) == ("hi", "")
    both = texts(record(instruction="hi", prompt="Translate:", reference="hello"))
    assert (both.instruction, both.prompt) == ("hi", "Translate:")


def test_named_columns_come_before_the_usual_ones_and_may_lie_in_others() -> None:
    found = texts(record(text="hi", answer="no", translation={"de": "hallo"}), "reference=translation.de", constants=("language=de",))
    assert (found.instruction, found.reference, found.language) == ("hi", "hallo", "de")


def test_a_named_column_serves_no_other_role() -> None:
    found = texts(record(answer="hi", output="hello"), "instruction=answer")
    assert (found.instruction, found.reference) == ("hi", "hello")


def test_of_several_references_the_first_is_learned() -> None:
    found = texts(record(text="hi", answer=["hello", "hey"]))
    assert (found.reference, found.answers) == ("hello", ("hello", "hey"))
    assert texts(record(text="hi", reference="hello", answers={"text": ["hey"], "answer_start": [0]})).answers == ("hey",)


def test_what_is_null_is_not_there() -> None:
    assert texts(record(text=None, sentence="hi", reference="hello", language=None)) == Texts(instruction="hi", reference="hello")


@pytest.mark.parametrize(
    ("values", "columns", "what"),
    [
        ({"text": "hi", "reference": 3}, (), "int and not text"),
        ({"text": "hi", "reference": "a", "answers": [3]}, (), "no list of texts"),
        ({"text": "hi", "said": "a"}, ("reference=says",), "no 'says'; there are: text, said"),
        ({"text": "hi", "said": "a"}, ("reference=said.de",), "no 'said.de'"),
    ],
)
def test_wrong_columns_end_the_import(values: dict[str, Any], columns: tuple[str, ...], what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        texts(record(**values), *columns)
    assert not isinstance(caught.value, RefusedError)
    assert str(caught.value).startswith("rows, row 4: ")


@pytest.mark.parametrize(("row", "what"), [(record(text="hi", reference=" "), "no reference"), (record(None, reference="a"), "neither")])
def test_empty_texts_are_refused(row: Record, what: str) -> None:
    with pytest.raises(RefusedError, match=what) as caught:
        texts(row)
    assert caught.value.reason == "empty"


@pytest.mark.parametrize(("columns", "constants"), [(["ref=a"], []), (["reference"], []), (["reference="], []), ([], ["audio=x"])])
def test_options_that_name_no_role_are_refused(columns: list[str], constants: list[str]) -> None:
    with pytest.raises(UserError, match="names no role"):
        Fields.parse(columns, constants)


def test_only_columns_that_may_be_read_are_needed() -> None:
    fields = Fields.parse(["reference=translation.de", "audio=sound"], [])
    assert fields.needed(["sound", "text", "embedding", "translation"]) == ["sound", "text", "translation"]
