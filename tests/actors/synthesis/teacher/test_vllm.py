"""vLLM in process: its settings, and its death."""

from __future__ import annotations

from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from actors.synthesis.teacher.opening import open_teacher
from actors.synthesis.teacher.teacher import Generation, Request, TeacherFailedError
from actors.synthesis.teacher.tokenizer import open_tokenizer
from configs.teaching import LanguageModelSection
from protocol.errors import UserError
from tests.actors.synthesis.teacher.conftest import CHECKPOINT, section
from tests.protocol.weights.roles import until


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
def test_an_engine_that_is_interrupted_goes_on_and_one_that_dies_is_told() -> None:
    """First a user leaves by an error while it writes; then all its processes are killed, and closing ends all the same."""
    from actors.synthesis.teacher.vllm import VllmTeacher

    def begun(requests: list[Request]) -> Future[list[Generation]]:
        """What will come of requests that the engine has been given."""
        writing = pool.submit(teacher.sample, requests)
        until(lambda: teacher._started().llm.get_num_unfinished_requests())
        return writing

    before = set(psutil.Process().children(recursive=True))
    long = [Request(prompt_ids=[1], max_tokens=250, temperature=2.0, seed=seed, stop_token_ids=[]) for seed in range(2000)]
    with ThreadPoolExecutor(1) as pool, VllmTeacher(section()) as teacher:
        once = teacher.sample(long[:8])
        writing = begun(long)
        with pytest.raises(KeyboardInterrupt), teacher:
            raise KeyboardInterrupt
        with pytest.raises(CancelledError):
            writing.result(60)
        assert teacher.sample(long[:8]) == once  # the others' engine is as it was
        writing = begun(long)
        for process in set(psutil.Process().children(recursive=True)) - before:
            process.kill()
        with pytest.raises(TeacherFailedError, match="died"):
            writing.result(60)
        with pytest.raises(TeacherFailedError):
            teacher.sample(long[:1])
