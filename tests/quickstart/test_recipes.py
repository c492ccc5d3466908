"""The recipes of synthesis, the recipes that train on what they make, and what the tiny teacher has been taught, fit together."""

import pytest

from actors.synthesis import tagging
from actors.synthesis.records import Draft
from actors.synthesis.responses import Responses
from actors.synthesis.speech.bank import read_bank
from actors.synthesis.teacher.teacher import Generation, Teacher
from configs import loader
from configs.selection import DIFFICULTIES
from configs.synthesis import SynthesisConfig
from ops.assets import resolve_synthesis
from protocol.dataset import DataSet
from quickstart.assets import provide
from quickstart.grammar import held_out
from quickstart.language import CODE
from quickstart.speech import provide_split
from quickstart.tasks import PROMPTS, asked, wanted
from quickstart.voices import TRAINING
from quickstart.world import Difficulty, members, topics

RECIPES = {"quickstart": "answer", "quickstart-s2tt": "s2tt", "quickstart-qa": "qa"}
TEXT = "what is two plus three"


class Noting(Teacher):
    """Keeps what it is asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    @property
    def description(self):
        return "noting"

    def _start(self):
        pass

    def _stop(self):
        pass

    def sample(self, requests):
        self.asked += requests
        return [Generation("five", 1, "stop") for _ in requests]


@pytest.fixture(params=RECIPES)
def name(request):
    return request.param


@pytest.fixture
def recipe(name):
    return loader.load(name, [], schema=SynthesisConfig)


def test_the_teacher_is_asked_as_it_was_taught(name, recipe):
    task, teacher = RECIPES[name], Noting()
    with Responses(recipe, teacher) as stage:
        (draft,) = stage.run(0, [Draft(id="0", instruction=TEXT)])
    assert teacher.asked[0].messages == [{"role": "user", "content": asked(task, TEXT)}]
    assert draft.prompt == PROMPTS[task]
    assert draft.language == (CODE if task == "s2tt" else "en")


def test_the_tagger_is_asked_as_it_was_taught(recipe):
    assert tagging.prompt(TEXT, recipe.tags) == asked("tags", TEXT)
    assert set(recipe.tags.topics) == set(topics())
    each = members("test")[0]
    tags = tagging.read(wanted("tags", each), recipe.tags)
    assert tags.topic == each.topic
    assert tags.difficulty in DIFFICULTIES
    assert list(tagging.schema(recipe.tags)["properties"]) == ["topic", "difficulty"]


def test_the_longest_tag_fits(recipe):
    from quickstart.training.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    longest = {
        task: max(len(tokenizer.encode(wanted(task, each))) for each in members("learned")) for task in ("answer", "s2tt", "qa", "tags")
    }
    assert longest.pop("tags") < recipe.tags.max_tokens
    assert max(longest.values()) < recipe.responses.max_tokens


def test_the_voices_are_the_quickstarts(recipe, monkeypatch, tmp_path):
    monkeypatch.setenv("RBA_CACHE", str(tmp_path))
    recipe.filter.kept_out = ()
    resolved = resolve_synthesis(recipe)
    assert [(each.name, each.espeak, each.words_per_minute, each.pitch) for each in read_bank(resolved.speech.bank)] == [
        (each.name, each.espeak, each.words_per_minute, each.pitch) for each in TRAINING
    ]
    assert provide("voices") == provide("voices")


def test_what_the_job_is_measured_by_is_kept_out(recipe, monkeypatch, tmp_path):
    monkeypatch.setenv("RBA_CACHE", str(tmp_path))
    small = Difficulty(test_groups=2, validation_groups=3)
    monkeypatch.setattr("quickstart.speech.provide_split", lambda split, *, task, progress: provide_split(split, small, progress=False))
    found = [DataSet.open(path).groups for path in resolve_synthesis(recipe).filter.kept_out]
    assert [len(groups) for groups in found] == [2, 3]
    assert {group.instruction for groups in found for group in groups} <= held_out()


def test_the_job_trains_on_what_the_synthesis_makes(name, recipe):
    job = loader.load({"quickstart": "quickstart-synthesized"}.get(name, name))
    assert job.data.train == f"{recipe.directory}/{recipe.name}/train.jsonl"
    assert job.data.test == {"answer": "quickstart:test"}.get(RECIPES[name], f"quickstart:test-{RECIPES[name]}")
    assert job.data.max_audio_s == recipe.speech.max_audio_s


@pytest.mark.parametrize("task", ["s2tt", "qa"])
def test_held_out_groups_of_a_task_have_the_truth(task, tmp_path, monkeypatch):
    monkeypatch.setenv("RBA_CACHE", str(tmp_path))
    small = Difficulty(test_groups=3)
    plain, told = (DataSet.open(provide_split("test", small, task=each, progress=False)).groups for each in ("answer", task))
    for one, other, each in zip(plain, told, members("test", small), strict=True):
        assert other.reference == wanted(task, each)
        assert (other.prompt, other.language) == (PROMPTS[task], CODE if task == "s2tt" else "en")
        assert other.answers == [other.reference]
        assert (other.group_id, other.instruction, other.utterances) == (one.group_id, one.instruction, one.utterances)
