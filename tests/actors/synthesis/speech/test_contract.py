"""What every back end has to do."""

import numpy as np
import pytest

from actors.synthesis.speech import backends
from actors.synthesis.speech.backend import Backend, Line, NoSpeechError
from actors.synthesis.speech.backends import open_backend
from actors.synthesis.speech.builtin import builtin
from actors.synthesis.speech.samples import Limits
from actors.synthesis.speech.voices import Voice
from configs.speech import SpeechSection, SpeechServerSection
from protocol.errors import UserError
from tests.actors.synthesis.speech.servers import Servant, audio, encoded, serving, tone

TEXT = "Why is the sky blue?"


class Humming(Backend):
    """A plug-in: one tone a voice."""

    def __init__(self, section):
        self.hz = section.options.get("hz", 200.0)

    def say(self, line):
        if "unspeakable" in line.text:
            raise NoSpeechError("refused", retry=False)
        return tone(2.0, 16_000, self.hz + len(line.voice.name)).astype(np.float32), 16_000


class Plugin:
    name, value = "humming", "tests:Humming"

    def load(self):
        return Humming


@pytest.fixture(params=["espeak", "openai", "humming"])
def speaking(request, monkeypatch):
    monkeypatch.setattr(backends, "entry_points", lambda group: [Plugin()] if group == "rba.speech" else [])
    if request.param != "openai":
        with open_backend(SpeechSection(backend=request.param, processes=1)) as backend:
            yield backend
        return
    servant = Servant()
    servant.script = lambda body: audio(b"" if "unspeakable" in body["input"] else encoded(tone(hz=200 + len(body["voice"]))))
    with serving(servant.app) as url:
        section = SpeechSection(backend="openai", server=SpeechServerSection(url=url), presets=["a"], voices_per_group=1)
        with open_backend(section) as backend:
            yield backend


def voices():
    known = {voice.name: voice for voice in builtin()}
    return [known[name] for name in ("us-f1", "rp-Annie", "scotland-steph")]


def test_takes_come_in_the_order_of_the_lines(speaking):
    lines = [Line(TEXT, voice, "en") for voice in voices()] * 7
    takes = speaking.speak(lines, Limits())
    assert len(takes) == len(lines)
    assert all(take.clip and not take.faults for take in takes)
    assert [take.clip for take in takes] == [take.clip for take in takes[:3]] * 7
    assert len({take.clip.content for take in takes}) == 3


def test_no_lines_are_no_takes(speaking):
    assert speaking.speak([], Limits()) == []


def test_limits_hold(speaking):
    (take,) = speaking.speak([Line(TEXT, voices()[0], "en")], Limits(max_audio_s=1.0))
    assert take.clip is None
    assert {fault.reason for fault in take.faults} == {"too long"}


def test_voices_that_it_knows_pass(speaking):
    speaking.check(voices())


def test_a_line_that_fails_takes_no_other_with_it(speaking):
    refused = Line("unspeakable", voices()[0], "en") if not speaking.reads_numbers else Line(TEXT, Voice("nobody", "xx+f1"), "en")
    good = Line(TEXT, voices()[1], "en")
    first, second, third = speaking.speak([good, refused, good], Limits())
    assert second.clip is None
    assert second.faults
    assert first == third
    assert first.clip


def test_a_plug_in_is_found_by_its_name_and_has_to_return_a_back_end(monkeypatch):
    monkeypatch.setattr(backends, "entry_points", lambda group: [Plugin()])
    assert open_backend(SpeechSection(backend="humming", options={"hz": 100.0})).hz == 100.0
    with pytest.raises(UserError, match="there are espeak, openai, humming"):
        open_backend(SpeechSection(backend="hum"))
    monkeypatch.setattr(Plugin, "load", lambda self: lambda section: "hm")
    with pytest.raises(UserError, match="tests:Humming gives a str; it has to return a Backend"):
        open_backend(SpeechSection(backend="humming"))
