import socket
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest
from fastapi import Response
from hypothesis import given
from hypothesis import strategies as st

from actors.synthesis.records import Draft
from actors.synthesis.speaking import Speaking
from actors.synthesis.speech.headers import read_header
from actors.synthesis.speech.http import ServerGoneError
from actors.synthesis.speech.samples import Clip
from actors.synthesis.speech.transcripts import Listener, distance, word_error
from configs.speech import SpeechSection, SpeechServerSection, TranscriptsSection
from configs.synthesis import SynthesisConfig
from configs.teaching import LanguageModelSection
from tests.actors.synthesis.speech.servers import WAV, Servant, audio, encoded, serving, tone


@pytest.mark.parametrize(
    ("said", "heard", "language", "expected"),
    [
        ("Why is the sky blue?", "why is the sky blue", "en", 0.0),
        ("It's well-known", "its well known.", "en", 0.0),
        ("one two three four", "one too three", "en", 0.5),
        ("今天天气好。", "今天 天气坏", "zh", 0.2),
        ("Grüße", "GRÜSSE", "de", 0.0),
        ("", "anything", "en", 1.0),
    ],
)
def test_words_that_differ(said, heard, language, expected):
    assert word_error(said, heard, language) == expected


@given(
    st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8)
)
def test_the_distance_is_one(one, other, third):
    assert distance(one, one) == 0
    assert distance(one, other) == distance(other, one) >= abs(len(one) - len(other))
    assert distance(one, third) <= distance(one, other) + distance(other, third)
    assert distance(one, [*one, "x"]) == 1


@pytest.fixture
def servant():
    return Servant()


@pytest.fixture
def url(servant):
    with serving(servant.app) as url:
        yield url


def fault(url, text="Hello there"):
    with Listener(TranscriptsSection(url=url, model="asr", attempts=1)) as listener:
        return listener.fault(Clip(WAV, 2.0), text, "en-US")


def test_the_clip_is_sent_and_what_is_heard_compared(servant, url):
    servant.hear = lambda: {"text": "Hello, there!"}
    assert fault(url) is None
    assert WAV in servant.bodies[0]
    assert b'name="language"\r\n\r\nen\r\n' in servant.bodies[0]
    servant.hear = lambda: {"text": "Hello where"}
    assert fault(url).reason == "misheard"
    assert fault(url).detail == "50% wrong: Hello where"


@pytest.mark.parametrize(
    "answer",
    [lambda: Response("<html>"), lambda: {"error": "x"}, lambda: ["text"], lambda: Response(b"\xff"), lambda: Response("bad", 400)],
)
def test_an_answer_without_a_transcript_is_a_fault(servant, url, answer):
    servant.hear = answer
    assert fault(url).reason == "not transcribed"


def test_another_voice_speaks_for_one_that_is_misheard(servant, url, tmp_path):
    mumbled = encoded(tone(3.0))
    servant.script = lambda body: audio(mumbled if body["voice"] == "b" else WAV)

    def hear():
        sent = servant.bodies[-1]
        return {"text": "hello there" if read_header(sent[sent.index(b"fLaC") :], 0).duration_s < 2.5 else "yellow bear"}

    servant.hear = hear
    speech = SpeechSection(
        backend="openai",
        server=SpeechServerSection(url=url),
        transcripts=TranscriptsSection(url=url, model="asr", concurrency=1),
        presets=["a", "b", "c"],
        voices_per_group=2,
        spoken_form="never",
    )
    config = SynthesisConfig(teacher=LanguageModelSection(model="nobody"), speech=speech)
    with Speaking(config, tmp_path) as stage:
        done = stage.run(0, [Draft(id=str(number), instruction="Hello there") for number in range(8)])
    assert all({each.speaker for each in draft.utterances} == {"a", "c"} for draft in done)
    assert {str(draft.tags) for draft in done} == {"{}", "{'unspoken': {'b': 'misheard'}}"}


def test_the_end_does_not_wait_for_a_listener_that_hangs(servant, url, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as hanging, ThreadPoolExecutor(1) as pool:
        hanging.settimeout(30)
        speech = SpeechSection(
            backend="openai",
            presets=["a", "b"],
            voices_per_group=2,
            spoken_form="never",
            server=SpeechServerSection(url=url),
            transcripts=TranscriptsSection(
                url=f"http://127.0.0.1:{hanging.getsockname()[1]}/v1", model="asr", timeout_s=3600, concurrency=1
            ),
        )
        stage = Speaking(SynthesisConfig(teacher=LanguageModelSection(model="nobody"), speech=speech), tmp_path).__enter__()
        running = pool.submit(stage.run, 0, [Draft(id=str(number), instruction="Hello there") for number in range(3)])
        connection, _ = hanging.accept()  # and never answer
        with connection:
            stage.__exit__(None, None, None)
            with pytest.raises((ServerGoneError, CancelledError)):
                running.result(30)
