import tarfile

import msgspec
import pytest

from actors.synthesis.records import Draft, Spoken
from actors.synthesis.speaking import Speaking
from actors.synthesis.speech.backend import Backend, NoSpeechError
from configs.speech import SpeechSection
from configs.synthesis import SynthesisConfig
from configs.teaching import LanguageModelSection
from protocol.audio import audio_hash, load
from protocol.errors import RbaError, UserError

DRAFTS = [
    Draft(id="a", instruction="What is the capital of Peru?"),
    Draft(id="b", instruction="Name three fruits that grow on trees in Norway."),
    Draft(id="c", instruction="Why is the sky blue?"),
]


def config(seed=0, **speech):
    return SynthesisConfig(seed=seed, teacher=LanguageModelSection(model="nobody"), speech=SpeechSection(**{"processes": 1, **speech}))


def speak(folder, drafts=DRAFTS, number=0, seed=0, **speech):
    with Speaking(config(seed, **speech), folder) as stage:
        return stage.run(number, drafts)


def clip(folder, spoken):
    content = (folder / spoken.path).read_bytes()[spoken.offset : spoken.offset + spoken.size_bytes]
    assert audio_hash(content) == spoken.audio
    (folder / "clip.flac").write_bytes(content)
    return load(folder / "clip.flac", 30.0, spoken.audio)


def test_each_instruction_is_spoken_by_distinct_voices_into_one_shard_a_block(tmp_path):
    done = speak(tmp_path, number=7)
    assert [draft.id for draft in done] == ["a", "b", "c"]
    for draft in done:
        assert draft.kept
        assert len({each.speaker for each in draft.utterances}) == len({each.audio for each in draft.utterances}) == 4
        assert {each.path for each in draft.utterances} == {"shards/000007.tar"}
        for each in draft.utterances:
            samples = clip(tmp_path, each)
            assert len(samples) / 16_000 == pytest.approx(each.duration_s, abs=1e-3)
            assert not samples[-480:].any()
            assert abs(samples).max() == pytest.approx(0.5, abs=1e-3)
    with tarfile.open(tmp_path / "shards/000007.tar") as shard:
        assert len(shard.getnames()) == 12
    assert "spoken" not in done[0].tags


def test_the_same_drafts_and_seed_give_the_same_bytes_whatever_the_number_of_processes(tmp_path):
    first = speak(tmp_path / "one")
    assert speak(tmp_path / "two", processes=2) == first
    shards = [(tmp_path / side / "shards/000000.tar").read_bytes() for side in ("one", "two")]
    assert shards[0] == shards[1]
    # a draft's clips are its own: not those of its neighbours, nor of its place in the block
    assert [each.audio for each in speak(tmp_path / "three", [DRAFTS[2]])[0].utterances] == [each.audio for each in first[2].utterances]
    assert speak(tmp_path / "four", seed=1)[0].utterances != first[0].utterances


class Scripted(Backend):
    """Speaks as another voice says: `wrong` voices fail."""

    def __init__(self, wrong=()):
        self.wrong, self.lines = set(wrong), []

    def say(self, line):
        import numpy as np

        self.lines.append(line)
        if line.voice.name in self.wrong:
            raise NoSpeechError("refused", line.voice.name)
        rng = np.random.default_rng(len(line.voice.name))
        return rng.uniform(-0.3, 0.3, 16_000 + 100 * ord(line.voice.name[-1])), 16_000


def scripted(folder, backend, drafts=DRAFTS, **speech):
    stage = Speaking(config(**{"presets": [f"v{n}" for n in range(8)], **speech}), folder)
    stage._backend = backend
    with stage:
        return stage.run(0, drafts)


def test_another_voice_speaks_where_one_fails(tmp_path):
    order = [each.speaker for each in scripted(tmp_path / "all", Scripted(), voices_per_group=8)[0].utterances]
    done = scripted(tmp_path / "some", Scripted(order[1:3]))[0]
    assert [each.speaker for each in done.utterances] == [order[0], *order[3:6]]
    assert done.tags["unspoken"] == {order[1]: "refused", order[2]: "refused"}


def test_fewer_voices_than_wanted_are_kept_and_fewer_than_the_least_are_rejected(tmp_path):
    names = [f"v{n}" for n in range(8)]
    assert {each.speaker for each in scripted(tmp_path / "a", Scripted(names[:5]))[0].utterances} == set(names[5:])
    done = scripted(tmp_path / "b", Scripted(names[:7]))
    assert [draft.rejected for draft in done] == ["speech: too few voices"] * 3
    assert done[0].utterances == []
    assert "v0: refused" in done[0].detail
    assert speak(tmp_path / "c", []) == []
    assert not (tmp_path / "c").exists()


def test_no_more_voices_are_tried_than_there_may(tmp_path):
    backend = Scripted([f"v{n}" for n in range(8)])
    scripted(tmp_path, backend, DRAFTS[:1], voices_per_group=2, spare_voices=3)
    assert len(backend.lines) == 5


def test_a_block_of_which_nothing_can_be_spoken_stops_the_synthesis(tmp_path):
    drafts = [msgspec.structs.replace(DRAFTS[0], id=str(number)) for number in range(10)]
    with pytest.raises(RbaError, match=r"nothing could be spoken, in 80 tries: \{'refused': 80\}"):
        scripted(tmp_path, Scripted([f"v{n}" for n in range(8)]), drafts)
    assert not (tmp_path / "shards").exists()


def test_what_is_said_differs_from_what_is_written(tmp_path, monkeypatch):
    pytest.importorskip("wetext")
    backend = Scripted()
    drafts = [msgspec.structs.replace(DRAFTS[0], instruction="What is 3 + 4?", tags={"intent": "sum"}), DRAFTS[1]]
    done = scripted(tmp_path, backend, drafts, spoken_form="always")
    assert done[0].tags == {"intent": "sum", "spoken": "What is three plus four?"}
    assert done[0].instruction == "What is 3 + 4?"
    assert {line.text for line in backend.lines} == {"What is three plus four?", DRAFTS[1].instruction}
    assert "spoken" not in done[1].tags


def test_a_text_utterance_makes_the_group_bimodal(tmp_path):
    done = scripted(tmp_path, Scripted(), text_utterance=True)
    assert done[0].utterances[-1] == Spoken("text")
    assert len(done[0].utterances) == 5


RECORDED = Draft(id="r", instruction="Guten Tag", utterances=[Spoken("speaker 7", "xxh128:" + "0" * 32, 2.0, "corpus/0.tar", 512, 100)])


def test_recordings_of_a_corpus_pass_through_and_may_be_listed_several_times(tmp_path):
    backend = Scripted()
    assert scripted(tmp_path / "a", backend, [RECORDED]) == [RECORDED]
    assert scripted(tmp_path / "b", backend, [RECORDED], copies=4)[0].utterances == RECORDED.utterances * 4
    both = scripted(tmp_path / "c", backend, [RECORDED, DRAFTS[0]], copies=2, text_utterance=True)
    assert both[0].utterances == [*RECORDED.utterances * 2, Spoken("text")]
    assert {line.text for line in backend.lines} == {DRAFTS[0].instruction}
    assert len(both[1].utterances) == 5


def test_recordings_are_spoken_anew_where_asked(tmp_path):
    done = scripted(tmp_path, Scripted(), [RECORDED], revoice=True)[0]
    assert len(done.utterances) == 4
    assert {each.path for each in done.utterances} == {"shards/000000.tar"}


def test_a_language_that_nobody_speaks_is_told(tmp_path):
    with pytest.raises(UserError, match="0 voices speak 'xx'"):
        speak(tmp_path, [Draft(id="x", instruction="…", spoken_language="xx")])
