import numpy as np
import pytest

from protocol.dataset import DataSet
from protocol.errors import UserError
from quickstart import assets, speech
from quickstart.speech import TRAILING_SILENCE, WINDOW_S, finish, provide_split, voices_of
from quickstart.voices import ESPEAK_RATE_HZ, HELD_OUT, TRAINING, Speaker, Voice, resample
from quickstart.world import Difficulty, members

VOICES = (*TRAINING, *HELD_OUT)


def test_there_are_enough_voices_of_different_names():
    assert len(TRAINING) >= 8
    assert len(HELD_OUT) >= 2
    assert len({voice.name for voice in VOICES}) == len({voice.espeak for voice in VOICES}) == len(VOICES)


@pytest.mark.parametrize("voice", VOICES, ids=lambda voice: voice.name)
def test_every_voice_speaks(voice):
    with Speaker() as speaker:
        said = speaker.say("what is the capital of norway", voice)
    assert 1.0 < len(said) / ESPEAK_RATE_HZ < 3.0
    assert np.sqrt(np.mean(said**2)) > 0.01
    clip = finish(said, Difficulty(), "clip")
    assert 1.0 < len(clip) / 16_000 < 3.0
    assert not clip[-480:].any()


def test_every_voice_is_another_one():
    with Speaker() as speaker:
        said = [speaker.say("hello", voice).tobytes() for voice in VOICES]
    assert len(set(said)) == len(VOICES)


def test_a_fresh_speaker_says_the_same_again_whatever_lies_in_memory():
    takes = []
    for garbage in (0, 255):
        blocks = [np.full(size, garbage, dtype=np.uint8) for size in range(16, 8192, 16)]
        del blocks
        with Speaker() as speaker:
            takes.append([speaker.say("name two fruits", voice).tobytes() for voice in VOICES])
    assert takes[0] == takes[1]


def test_an_unknown_voice_is_an_error():
    with Speaker() as speaker, pytest.raises(RuntimeError, match="no voice"):
        speaker.say("hello", Voice("nobody", "en-gb+m3", 170, 50))


def test_resampling_keeps_tones_and_drops_what_does_not_fit():
    time_s = np.arange(ESPEAK_RATE_HZ) / ESPEAK_RATE_HZ
    window = np.hanning(len(time_s))  # a tone that starts and ends softly
    low, high = (np.sin(2 * np.pi * hz * time_s) * window for hz in (1000, 9500))
    kept = resample(low)[:16_000]
    expected = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000) * np.hanning(16_000)
    assert np.abs(kept - expected).max() < 5e-3
    assert np.abs(resample(high)).max() < 1e-3


def test_voices_of_a_group():
    difficulty = Difficulty()
    held_out = {voice.name for voice in HELD_OUT}
    for split in ("train", "test"):
        for instruction in members(split, difficulty)[:100]:
            names = [voice.name for voice in voices_of(instruction, split, difficulty)]
            assert len(set(names)) == 4
            assert names == [voice.name for voice in voices_of(instruction, split, difficulty)]
            assert [name in held_out for name in names] == ([False] * 4 if split == "train" else [False, False, False, True])
    used = {voice.name for each in members("train", difficulty) for voice in voices_of(each, "train", difficulty)}
    assert used == {voice.name for voice in TRAINING}
    few = {voice.name for each in members("train", difficulty) for voice in voices_of(each, "train", Difficulty(training_voices=5))}
    assert few == {voice.name for voice in TRAINING[:5]}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RBA_CACHE", str(tmp_path))
    return tmp_path


def test_a_split_is_spoken_once_and_always_the_same(cache, monkeypatch):
    small = Difficulty(train_groups=3, several_answers=True)
    manifest = provide_split("train", small, progress=False)
    data = DataSet.open(manifest)
    assert [group.group_id for group in data.groups] == [each.group_id for each in members("train", small)]
    for group in data.groups:
        assert len({one.speaker for one in group.utterances}) == len({one.audio for one in group.utterances}) == 4
        for one in group.utterances:
            samples = data.samples(one.audio, WINDOW_S)
            assert len(samples) / 16_000 == pytest.approx(one.duration_s, abs=1e-3)
            assert len(samples) < WINDOW_S * 16_000
            assert np.abs(samples).max() > 0.3
            assert not samples[-TRAILING_SILENCE:].any()
    content = manifest.read_bytes()
    modified = manifest.stat().st_mtime_ns
    assert provide_split("train", small, progress=False) == manifest
    assert manifest.stat().st_mtime_ns == modified
    monkeypatch.setenv("RBA_CACHE", str(cache / "elsewhere"))
    again = provide_split("train", small, progress=False)
    assert again != manifest
    assert again.read_bytes() == content


def test_settings_that_change_the_speech_have_a_place_of_their_own(cache):
    first, second = (provide_split("test", Difficulty(test_groups=1, noise_db=noise), progress=False) for noise in (None, 10.0))
    assert first != second
    assert DataSet.open(first).groups[0].utterances != DataSet.open(second).groups[0].utterances


def test_a_killed_synthesis_leaves_nothing_behind(cache, monkeypatch):
    def killed(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(speech, "speak_group", killed)
    with pytest.raises(KeyboardInterrupt):
        provide_split("test", Difficulty(test_groups=2), progress=False)
    assert not [path for path in cache.rglob("*") if path.is_file() or path.name.startswith("test")]


def test_an_unknown_asset_names_those_that_there_are():
    with pytest.raises(UserError, match="speechlm, teacher, reward_model, learned, train, validation, test"):
        assets.provide("speachlm")
