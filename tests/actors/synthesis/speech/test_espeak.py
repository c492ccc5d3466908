import ctypes
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError

import numpy as np
import psutil
import pytest

from actors.synthesis.speech.backend import Line
from actors.synthesis.speech.builtin import builtin
from actors.synthesis.speech.espeak import Speaker
from actors.synthesis.speech.espeak_backend import EspeakBackend, _speak
from actors.synthesis.speech.samples import Limits
from actors.synthesis.speech.voices import Voice
from protocol.errors import UserError

LIMITS = Limits()
TEXT = "Why is the sky blue?"
VOICES = {voice.name: voice for voice in builtin()}
NOISY = [VOICES[name] for name in ("us-f2", "us-Reed", "gb-caleb", "rp-m1")]
"""Two kinds of breath, and none."""


def test_a_fresh_speaker_says_the_same_again_at_any_time_and_whatever_was_said_before():
    takes = []
    for garbage in (0, 255):
        blocks = [np.full(size, garbage, dtype=np.uint8) for size in range(16, 8192, 16)]
        del blocks
        ctypes.CDLL(None).srand(garbage)
        for voice in NOISY:
            with Speaker() as speaker:
                takes.append(speaker.say(TEXT, voice).tobytes())
        second = int(time.time())
        while int(time.time()) == second:  # what espeak-ng would seed its noise with
            time.sleep(0.01)
    assert takes[: len(NOISY)] == takes[len(NOISY) :]
    assert len(set(takes)) == len(NOISY)


def test_every_voice_of_the_built_in_bank_is_one_that_espeak_knows_and_another_one():
    assert len(VOICES) == len({voice.espeak for voice in VOICES.values()}) == len(builtin())
    assert sum(voice.language == "en" for voice in VOICES.values()) > 500
    with Speaker() as speaker:
        assert [name for name, voice in VOICES.items() if not speaker.knows(voice)] == []


def test_a_voice_that_espeak_does_not_know_is_told_at_the_start():
    with EspeakBackend(1) as backend, pytest.raises(UserError, match=r"bank, eve: espeak-ng has no voice 'en-us\+eve', nor 2 others"):
        backend.check([NOISY[0], Voice("eve", "en-us+eve"), Voice("gb", "en-gb+f1"), Voice("preset")])


def crash(lines, limits):
    """Stands for a library that ends its process at a word."""
    if any("crash" in line.text for line in lines):
        import os

        os._exit(9)
    return _speak(lines, limits)


def test_only_the_line_that_ends_its_process_is_lost(monkeypatch):
    monkeypatch.setattr("actors.synthesis.speech.espeak_backend._speak", crash)
    lines = [Line("crash" if number == 3 else f"Number {number}.", VOICES["us-m1"], "en") for number in range(20)]
    with EspeakBackend(2) as backend:
        takes = backend.speak(lines, LIMITS)
        assert [take.clip is None for take in takes] == [number == 3 for number in range(20)]
        assert takes[3].faults[0].reason == "crashed"
        assert backend.speak(lines[:3], LIMITS) == takes[:3]


PARENT = """
if __name__ == "__main__":
    from tests.actors.synthesis.speech.test_espeak import *
    with EspeakBackend(2) as backend:
        backend.speak([Line(TEXT, VOICES["us-m1"], "en")] * 32, LIMITS)
        print(*backend._workers._processes, flush=True)
        import threading
        threading.Event().wait()
"""


def test_processes_end_with_the_one_that_started_them(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert pids
    parent.kill()
    parent.wait()
    while any(map(running, pids)):
        time.sleep(0.05)


def running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def speaking_processes():
    """By their ids; Python's own resource tracker is none of them."""
    return {child.pid for child in psutil.Process().children() if _speaks(child)}


def _speaks(child: psutil.Process) -> bool:
    try:
        return any("spawn_main" in word for word in child.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def test_behind_the_end_nobody_starts_a_process():
    speaking = EspeakBackend(1)
    with speaking:
        assert speaking.speak([Line(TEXT, NOISY[0], "en")], LIMITS)[0].clip
    with pytest.raises(CancelledError):
        speaking.speak([Line(TEXT, NOISY[0], "en")], LIMITS)
    assert not speaking_processes()
    with speaking:
        assert speaking.speak([Line(TEXT, NOISY[0], "en")], LIMITS)[0].clip


def test_processes_leave_the_answer_to_ctrl_c_to_the_one_that_started_them():
    with EspeakBackend(1) as speaking:
        first = speaking.speak([Line(TEXT, NOISY[0], "en")], LIMITS)
        before = speaking_processes()
        for process in before:
            os.kill(process, signal.SIGINT)
        assert speaking.speak([Line(TEXT, NOISY[0], "en")], LIMITS) == first
        assert before
        assert speaking_processes() == before
