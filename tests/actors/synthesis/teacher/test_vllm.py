"""vLLM in process: its settings, and its death."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil
import pytest

from actors.synthesis.teacher.opening import open_teacher
from actors.synthesis.teacher.teacher import Request, TeacherFailedError
from actors.synthesis.teacher.tokenizer import open_tokenizer
from configs.synthesis import LanguageModelSection
from protocol.errors import UserError
from tests.actors.synthesis.teacher.conftest import CHECKPOINT, section


def test_the_tokens_that_end_a_text_are_found(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(section(), "teacher")
    assert tokenizer.eos_ids == [2]
    assert tokenizer.render([{"role": "user", "content": "Hi"}]).endswith("<|im_start|>assistant\n")
    with pytest.raises(UserError, match=r"teacher\.model: no tokenizer"):
        open_tokenizer(section(model=str(tmp_path)), "teacher")
    with pytest.raises(UserError, match=r"tags\.model\.tokenizer: no tokenizer"):
        open_tokenizer(LanguageModelSection(model="tiny", url="http://localhost/v1", tokenizer=str(tmp_path)), "tags.model")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"max_num_seqz": 4}, "did you mean 'max_num_seqs'"),
        ({"dtype": "float16"}, r"write it as teacher\.dtype"),
        ({"generation_config": "auto"}, "set by rba itself"),
    ],
)
def test_settings_that_vllm_does_not_know_are_told(extra: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_teacher(section(extra=extra))


def test_further_settings_reach_vllm() -> None:
    from actors.synthesis.teacher.vllm import engine_arguments

    arguments = engine_arguments(section(extra={"max_num_seqs": 4}), "teacher")
    assert (arguments.max_num_seqs, arguments.max_model_len, arguments.model) == (4, 256, str(CHECKPOINT))


@pytest.mark.engine
def test_an_engine_that_dies_is_told() -> None:
    """Every process of the engine is killed while it writes; the stage hears of it, and closing ends."""
    before = set(psutil.Process().children(recursive=True))
    long = [Request(prompt_ids=[1], max_tokens=250, temperature=2.0, seed=seed, stop_token_ids=[]) for seed in range(2000)]
    heard: list[Exception] = []

    def ask() -> None:
        try:
            teacher.sample(long)
        except TeacherFailedError as error:
            heard.append(error)

    with open_teacher(section()) as teacher:
        teacher.sample(long[:1])
        worker = threading.Thread(target=ask)
        worker.start()
        for process in set(psutil.Process().children(recursive=True)) - before:
            process.kill()
        worker.join(60)
        assert not worker.is_alive()
        assert "died" in str(heard[0])
        with pytest.raises(TeacherFailedError):
            teacher.sample(long[:1])
