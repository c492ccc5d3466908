import base64
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest

from actors.synthesis.records import Draft
from actors.synthesis.speaking import Speaking
from actors.synthesis.speech.backend import Line
from actors.synthesis.speech.http import ServerGoneError
from actors.synthesis.speech.openai import OpenAIBackend
from actors.synthesis.speech.samples import Limits
from actors.synthesis.speech.voices import Voice
from configs.speech import SpeechSection, SpeechServerSection
from configs.synthesis import SynthesisConfig
from configs.teaching import LanguageModelSection
from protocol.errors import UserError
from tests.actors.synthesis.speech.servers import FAULTS, FLAC, STREAMED, WAV, Servant, audio, encoded, serving, tone

TEXT = "How are you?"


@pytest.fixture
def servant():
    return Servant()


@pytest.fixture
def url(servant):
    with serving(servant.app) as url:
        yield url


def backend(url, **section):
    made = OpenAIBackend(SpeechServerSection(**{"url": url, "model": "tts", "attempts": 3, **section}))
    made.requests.first_wait_s = 0.01
    return made


def take(url, voice=None, **section):
    with backend(url, **section) as speaking:
        return speaking.speak([Line(TEXT, voice or Voice("alloy"), "en")], Limits())[0]


@pytest.mark.parametrize(
    ("form", "content", "media_type"),
    [
        ("wav", WAV, "audio/wav"),
        ("wav", STREAMED, "audio/x-wav"),
        ("flac", FLAC, "audio/flac"),
        ("pcm", WAV[44:], "audio/pcm"),
        ("wav", encoded(np.stack([tone()] * 2, axis=1)), "application/octet-stream"),
        ("pcm", WAV, "audio/pcm"),
    ],
)
def test_every_format_gives_the_same_clip(servant, url, form, content, media_type):
    servant.script = lambda body: audio(content, media_type)
    clip = take(url, response_format=form).clip
    assert clip.duration_s == pytest.approx(2.04, abs=0.01)
    assert servant.bodies == [{"model": "tts", "input": TEXT, "voice": "alloy", "response_format": form}]
    servant.script = lambda body: audio(WAV)
    assert clip == take(url).clip


def test_a_voice_is_cloned_from_its_recording(servant, url, tmp_path, monkeypatch):
    monkeypatch.setenv("TTS_KEY", "secret")
    recording = tmp_path / "anna.flac"
    recording.write_bytes(FLAC)
    voice = Voice("anna", audio=str(recording), text="Please call Stella.")
    section = {"task_type": "Base", "speed": 1.1, "extra": {"language": "English"}, "api_key_env": "TTS_KEY"}
    assert take(url, voice, **section).clip
    body = servant.bodies[0]
    assert base64.b64decode(body.pop("ref_audio").removeprefix("data:audio/flac;base64,")) == FLAC
    assert body == {
        "model": "tts", "input": TEXT, "response_format": "wav", "ref_text": "Please call Stella.", "task_type": "Base", "speed": 1.1,
        "language": "English",
    }  # fmt: skip
    assert servant.headers[0]["authorization"] == "Bearer secret"
    assert take(url, voice, clone=False).clip
    assert servant.bodies[1]["voice"] == "anna"


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_answer_is_counted_and_tried_again(servant, url, name):
    answer, reason = FAULTS[name]
    answers = iter([answer])
    servant.script = lambda body: next(answers, lambda: audio(WAV))()
    found = take(url)
    assert [fault.reason for fault in found.faults] == [reason]
    assert (found.clip is None) == (name == "400")  # what is wrong with a request is wrong with it again
    servant.script = lambda body: answer()
    before = len(servant.bodies)
    assert take(url).clip is None
    assert len(servant.bodies) - before == (1 if name == "400" else 2)


@pytest.mark.parametrize("name", FAULTS)
def test_another_voice_speaks_for_one_whose_answers_are_wrong(servant, url, name, tmp_path):
    answer, reason = FAULTS[name]
    servant.script = lambda body: answer() if body["voice"] == "broken" else audio(WAV)
    presets = ["broken", "one", "two", "three"]
    speech = SpeechSection(backend="openai", server=SpeechServerSection(url=url), presets=presets, voices_per_group=3, spoken_form="never")
    config = SynthesisConfig(teacher=LanguageModelSection(model="nobody"), speech=speech)
    with Speaking(config, tmp_path) as stage:
        done = stage.run(0, [Draft(id=str(number), instruction=TEXT) for number in range(4)])
    assert all({each.speaker for each in draft.utterances} == {"one", "two", "three"} for draft in done)
    refused = [draft.tags["unspoken"] for draft in done if draft.tags]
    assert refused
    assert all(each == {"broken": reason} for each in refused)


def busy(times, status=503):
    left = iter(range(times))
    from fastapi import Response

    return lambda body: Response("busy", status) if next(left, None) is not None else audio(WAV)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_waited_for(servant, url, status):
    servant.script = busy(2, status)
    found = take(url)
    assert found.clip
    assert found.faults == ()
    assert len(servant.bodies) == 3


def test_a_server_that_stays_away_is_told_and_nothing_is_lost(servant, url, tmp_path):
    servant.script = busy(1000)
    with pytest.raises(ServerGoneError, match=r"did not answer in 3 tries .503: busy.; what is committed stays"):
        take(url)
    speech = SpeechSection(backend="openai", server=SpeechServerSection(url="http://127.0.0.1:1/v1", attempts=1), presets=list("abcd"))
    config = SynthesisConfig(teacher=LanguageModelSection(model="nobody"), speech=speech.model_copy(update={"spoken_form": "never"}))
    with pytest.raises(ServerGoneError, match="ConnectError"), Speaking(config, tmp_path) as stage:
        stage.run(0, [Draft(id=str(number), instruction=TEXT) for number in range(50)])
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_request_would_get_past_is_the_users_to_mend(servant, url, status):
    from fastapi import Response

    servant.script = lambda body: Response('{"error": "no such model"}', status)
    with pytest.raises(UserError, match=f"the server says {status}: .*no such model.*check speech.server"):
        take(url)
    assert len(servant.bodies) == 1


def test_lines_that_wait_for_a_server_that_stays_away_end_with_the_first(servant, url):
    servant.script = busy(1000)
    with pytest.raises(ServerGoneError), backend(url, concurrency=4) as speaking:
        speaking.speak([Line(TEXT, Voice(str(number)), "en") for number in range(40)], Limits())
    assert len(servant.bodies) <= 4 * 3


def test_a_key_that_is_not_set_and_an_address_that_is_none(monkeypatch):
    monkeypatch.delenv("TTS_KEY", raising=False)
    with pytest.raises(UserError, match="the environment has no TTS_KEY"):
        backend("http://127.0.0.1:1/v1", api_key_env="TTS_KEY")
    with pytest.raises(UserError, match=r"speech\.server\.url: 'localhost:8000' is no address"):
        backend("localhost:8000")
    with pytest.raises(UserError, match=r"speech\.server\.url: 'http://host:port/v1' is no address"):
        backend("http://host:port/v1")


def test_an_answer_that_is_not_packed_as_it_says_is_tried_again(servant, url):
    from fastapi import Response

    answers = [Response(b"no gzip", headers={"Content-Encoding": "gzip"}), audio(WAV)]
    servant.script = lambda body: answers.pop(0)
    assert take(url).clip
    assert answers == []


def test_a_server_of_this_machine_is_reached_past_the_proxy(servant, url, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert take(url, attempts=1).clip


def test_the_end_does_not_wait_for_a_server_that_hangs(servant, url):
    asked, ended = threading.Event(), threading.Event()

    def hang(body):
        asked.set()
        assert ended.wait(60)
        return audio(WAV)

    servant.script = hang
    speaking = backend(url, concurrency=2).__enter__()
    with ThreadPoolExecutor(1) as pool:
        spoken = pool.submit(speaking.speak, [Line(TEXT, Voice(str(number)), "en") for number in range(9)], Limits())
        assert asked.wait(60)
        speaking.__exit__(None, None, None)  # returns though nothing has been answered
        assert not ended.is_set()
        ended.set()
        with pytest.raises((ServerGoneError, CancelledError)):
            spoken.result(30)
    assert 1 <= len(servant.bodies) <= 2


def test_no_more_requests_at_once_than_allowed(servant, url):
    together = threading.Barrier(4)

    open_now, most, lock = 0, 0, threading.Lock()

    def slow(body):
        nonlocal open_now, most
        with lock:
            open_now += 1
            most = max(most, open_now)
        together.wait(10)
        with lock:
            open_now -= 1
        return audio(WAV)

    servant.script = slow
    with backend(url, concurrency=4) as speaking:
        takes = speaking.speak([Line(TEXT, Voice(str(number)), "en") for number in range(12)], Limits())
    assert most == 4
    assert all(each.clip for each in takes)
