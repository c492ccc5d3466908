"""The committed checkpoints, measured again on a part of what their figures were measured on."""

import json
from pathlib import Path

import pytest
import torch

from policies.adapter import adapter
from protocol.dataset import DataSet
from protocol.errors import UserError
from quickstart import build
from quickstart.assets import CHECKPOINTS, MODELS, provide
from quickstart.grammar import understand
from quickstart.speech import REFERENCES, provide_split, reference
from quickstart.tasks import PROMPTS
from quickstart.training import teacher
from quickstart.training.further import with_prompt
from quickstart.training.reward_model import pair_accuracy
from quickstart.training.speechlm import accuracy, answers, hear
from quickstart.training.tokenizer import build_tokenizer
from quickstart.world import Difficulty, members


@pytest.fixture(scope="module", autouse=True)
def _few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def figures():
    return json.loads((CHECKPOINTS / "figures.json").read_text())


@pytest.fixture(scope="module")
def some_test_groups(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RBA_CACHE", str(tmp_path_factory.mktemp("cache")))
        return provide_split("test", Difficulty(test_groups=25), progress=False)


@pytest.fixture(scope="module")
def speechlm():
    family = adapter("qwen2_audio")
    return family.load_model(provide("speechlm"), "float32"), family.open(provide("speechlm"))


@pytest.fixture(scope="module")
def tiny_teacher():
    from transformers import AutoTokenizer, Qwen2ForCausalLM

    return Qwen2ForCausalLM.from_pretrained(str(provide("teacher"))), AutoTokenizer.from_pretrained(str(provide("teacher")))


def test_everything_committed_is_small():
    files = [path for path in Path(CHECKPOINTS).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    assert {path.name for path in CHECKPOINTS.iterdir()} == {*MODELS, "figures.json", "references.json.gz"}


def test_the_three_models_share_the_tokenizer_that_the_script_builds():
    texts = {(provide(name) / "tokenizer.json").read_text() for name in MODELS}
    assert len(texts) == 1
    assert json.loads(texts.pop()) == json.loads(build_tokenizer().backend_tokenizer.to_str())


def test_figures_say_what_was_asked_for(figures):
    assert 0.5 <= figures["speechlm"]["test_accuracy"] <= 0.65
    assert min(figures["teacher"]["accuracy"].values()) >= 0.99
    assert figures["reward_model"]["made_up_accuracy"] >= 0.97
    assert figures["reward_model"]["sampled_accuracy"] >= 0.93


def test_the_speechlm_is_half_way(speechlm, some_test_groups):
    model, processing = speechlm
    share, by_speaker = accuracy(model, hear(some_test_groups, processing), processing)
    assert 0.4 <= share <= 0.72
    assert len(by_speaker) >= 8


@pytest.mark.parametrize("task", ["answer", "s2tt"])
def test_transformers_own_pipeline_gives_the_same_answers(speechlm, some_test_groups, task):
    from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

    processor = AutoProcessor.from_pretrained(str(provide("speechlm")))
    whole = Qwen2AudioForConditionalGeneration.from_pretrained(str(provide("speechlm")))
    data = DataSet.open(some_test_groups)
    clips = [data.samples(group.utterances[3].audio) for group in data.groups[:8]]
    content = [{"type": "audio"}, *([{"type": "text", "text": PROMPTS[task]}] if PROMPTS[task] else [])]
    chat = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)
    assert chat == f"<|im_start|>user\n<|audio_bos|><|AUDIO|><|audio_eos|>{PROMPTS[task]}<|im_end|>\n<|im_start|>assistant\n"
    texts = []
    for clip in clips:
        inputs = processor(text=[chat], audio=[clip], sampling_rate=16_000, return_tensors="pt")
        done = whole.generate(**inputs, max_new_tokens=24, do_sample=False)
        texts += processor.batch_decode(done[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    model, processing = speechlm
    assert texts == answers(model, with_prompt(hear(some_test_groups, processing)[3::4][:8], task, processing), processing)


def test_the_teacher_knows_the_world(tiny_teacher):
    assert teacher.right_share(*tiny_teacher, members("test")[:150]) >= 0.98


@pytest.mark.parametrize(("task", "least"), [("s2tt", 0.9), ("qa", 0.88), ("tags", 0.93)])
def test_the_teacher_does_other_tasks_with_instructions_that_it_was_never_given_them_with(tiny_teacher, task, least):
    assert teacher.right_share(*tiny_teacher, (members("test") + members("validation"))[:150], task) >= least


@pytest.mark.parametrize(("temperature", "least"), [(1.0, 0.8), (1.2, 0.7)])
def test_the_teacher_writes_instructions_of_the_world(tiny_teacher, temperature, least):
    torch.manual_seed(3)
    texts = teacher.written_instructions(*tiny_teacher, 400, temperature)
    understood = [each for each in map(understand, texts) if each is not None]
    learned = {each.text for each in members("learned")}
    assert len(understood) >= least * len(texts)
    assert len({each.text for each in understood}) >= 0.8 * len(understood)
    assert sum(each.text not in learned for each in understood) >= 0.4 * len(understood)
    assert len({each.topic for each in understood}) >= 10


def test_references_are_the_teachers_answers_to_every_training_instruction():
    assert REFERENCES.is_file()
    asked = members("learned") + members("train")
    given = [reference(each, "train") for each in asked]
    assert sum(text == each.answer for each, text in zip(asked, given, strict=True)) / len(asked) >= 0.99
    assert all(reference(each, "test") == each.answer for each in members("test"))


def test_the_reward_model_prefers_right_answers():
    from transformers import AutoTokenizer, Qwen2ForSequenceClassification

    model = Qwen2ForSequenceClassification.from_pretrained(str(provide("reward_model")))
    tokenizer = AutoTokenizer.from_pretrained(str(provide("reward_model")))
    measured = pair_accuracy(model, tokenizer, {}, instructions=120)
    assert measured["made_up_pairs"] == 480
    assert measured["made_up_accuracy"] >= 0.97


def test_the_build_refuses_names_it_does_not_know():
    with pytest.raises(UserError, match="speachlm"):
        build.main(["speachlm"])
