from collections.abc import Sequence
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest

from actors.rewards.items import RewardItem, RewardScore
from actors.rewards.scorers import function
from actors.rewards.scorers.function import FunctionScorer
from configs.scorers import PythonSection
from protocol.errors import UserError

ITEMS = [RewardItem(str(number), "say", "x" * number) for number in range(4)]
calls: list[int] = []


def lengths(items: Sequence[RewardItem], *, scale: float = 1.0) -> list[float]:
    calls.append(len(items))
    return [scale * len(item.answer) for item in items]


def raising(items: Sequence[RewardItem]) -> list[float]:
    if any(len(item.answer) == 2 for item in items):
        raise ValueError("two is too much")
    return [1.0] * len(items)


def mixed(items: Sequence[RewardItem]) -> list[Any]:
    return [RewardScore("0", 2.0, {"part": 1.0}), np.float32(1.5), None, float("nan")]


def others(items: Sequence[RewardItem]) -> list[Any]:
    return ["7", True, RewardScore("0", 1.0), RewardScore("3", float("inf"))]


def too_few(items: Sequence[RewardItem]) -> list[float]:
    return [1.0]


def nothing(items: Sequence[RewardItem]) -> None:
    return None


async def later(items: Sequence[RewardItem]) -> list[float]:
    return []


NUMBER = 7


def scorer(name: str, **settings: object) -> FunctionScorer:
    return FunctionScorer(PythonSection(function=name, settings=settings), "rewards.python")


def test_a_batch_is_one_call_with_the_settings():
    calls.clear()
    assert [score.score for score in scorer(f"{__name__}:lengths", scale=0.5).score(ITEMS)] == [0.0, 0.5, 1.0, 1.5]
    assert calls == [4]


def test_an_exception_is_the_error_of_its_item():
    scores = scorer(f"{__name__}:raising").score(ITEMS)
    assert [score.score for score in scores] == [1.0, 1.0, None, 1.0]
    assert scores[2].error == "function: ValueError: two is too much"


def test_results_may_be_numbers_scores_or_nothing():
    scores = scorer(f"{__name__}:mixed").score(ITEMS)
    assert [score.score for score in scores] == [2.0, 1.5, None, None]
    assert [score.kind for score in scores] == [None, None, "no_score", "non_finite"]
    assert scores[0].parts == {"part": 1.0}


def test_other_results_are_the_error_of_their_item():
    scores = scorer(f"{__name__}:others").score(ITEMS)
    assert [score.kind for score in scores] == ["function", None, "function", "non_finite"]
    assert "str is no score" in str(scores[0].error)
    assert "item 0" in str(scores[2].error)


def test_a_wrong_number_of_results_is_told():
    scores = scorer(f"{__name__}:too_few").score(ITEMS)
    assert {score.error for score in scores} == {"function: too_few returns 1 results for 4 items"}
    assert [score.id for score in scores] == ["0", "1", "2", "3"]
    assert {score.kind for score in scorer(f"{__name__}:nothing").score(ITEMS)} == {"function"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f"{__name__}:length", r"has no function length; did you mean lengths\? it has lengths, raising, mixed"),
        (f"{__name__}:NUMBER", "has no function NUMBER; it has"),
        (f"{__name__}:", "has no function"),
        (f"{__name__}:later", "is asynchronous"),
        ("no.such.module:score", r"no\.such\.module cannot be imported: ModuleNotFoundError.*PYTHONPATH"),
        ("politeness", "no scorer politeness is installed; write module:function, or one of the entry points mine"),
        (":score", "cannot be imported"),
    ],
)
def test_a_function_that_is_not_there_is_the_users_error(name: str, words: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(function, "entry_points", lambda group: [EntryPoint("mine", f"{__name__}:lengths", group)])
    with pytest.raises(UserError, match=r"rewards\.python\.function: .*" + words):
        scorer(name)


def test_settings_that_the_function_does_not_take_are_the_users_error():
    with pytest.raises(UserError, match=r"got an unexpected keyword argument 'scal'.*rewards\.python\.settings"):
        scorer(f"{__name__}:lengths", scal=1)


def test_entry_points_are_found_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        function, "entry_points", lambda group: [EntryPoint("mine", f"{__name__}:lengths", group)] if group == "rba.scorers" else []
    )
    assert [score.score for score in scorer("mine").score(ITEMS)] == [0.0, 1.0, 2.0, 3.0]
    assert scorer("mine").signature == scorer(f"{__name__}:lengths").signature


def test_the_signature_changes_with_the_file_and_the_settings(tmp_path, monkeypatch: pytest.MonkeyPatch):
    def signature(module: str, text: str, **settings: object) -> str:
        (tmp_path / f"{module}.py").write_text(text)
        return scorer(f"{module}:score", **settings).signature.replace(module, "module")

    monkeypatch.syspath_prepend(tmp_path)
    one = signature("scorer_one", "def score(items, k=1):\n    return [1.0 for _ in items]\n")
    assert signature("scorer_two", "def score(items, k=1):\n    return [1.0 for _ in items]\n") == one
    assert signature("scorer_three", "def score(items, k=1):\n    return [2.0 for _ in items]\n") != one
    assert signature("scorer_four", "def score(items, k=1):\n    return [1.0 for _ in items]\n", k=2) != one


def odd(items: Sequence[RewardItem]) -> list[Any]:
    return [
        RewardScore("0", "0.5"),  # type: ignore[arg-type]
        RewardScore("1", "high"),  # type: ignore[arg-type]
        RewardScore("2", None, {"x": float("nan"), "y": 1.0}, ValueError("mine: no")),  # type: ignore[arg-type]
        RewardScore("3", None, {}, "mine: \ud800"),
    ]


def test_scores_of_other_types_harm_nobody():
    first, second, third, fourth = scorer(f"{__name__}:odd").score(ITEMS)
    assert first.score == 0.5
    assert second.kind == "function"
    assert (third.kind, third.parts) == ("mine", {"y": 1.0})
    assert fourth.error == "mine: ?"
