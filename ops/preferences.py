"""The preference pairs that a run leaves in its journal, joined with the words and voices of its data sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from actors.datasets.examples import clip_of
from actors.datasets.preferences import Answer, Preference
from configs import loader
from learner.journal import JOURNAL
from learner.journal.disk import PosixDisk
from learner.journal.records import Received
from learner.journal.recovery import Recovered, read_all
from ops.rundir import RunDir
from protocol.dataset import DataSet, open_mixture
from protocol.errors import UserError
from protocol.messages import REFERENCE, Completion, GroupResult, InstructionGroup, PreferencePair, Purpose


@dataclass(frozen=True)
class Preferences:
    """Of one run."""

    complete: bool
    """False when the journal does not reach back to the run's start: it keeps what its checkpoints need."""
    _recovered: Recovered
    _data: Sequence[DataSet]

    @classmethod
    def open(cls, run: RunDir, *, salvage: bool = False) -> Preferences:
        """Raises `UserError` where the run has no journal, where it is damaged (unless `salvage`), and where its data sets are gone."""
        disk = PosixDisk(run.path / JOURNAL)
        if not disk.names():
            raise UserError("the run has no journal", where=disk.where, fix="name a run that has received groups")
        recovered = read_all(disk, salvage=salvage)
        data = loader.load(run.config).data
        return cls(recovered.found.first == 1, recovered, open_mixture(data.train, data.mix))

    def __iter__(self) -> Iterator[Preference]:
        """Every pair of every group that was received for training, in the order of their coming. Raises `UserError`."""
        places = {group.group_id: (data, number) for data in self._data for number, group in enumerate(data.groups)}
        for _, record in self._recovered.records():
            if isinstance(record, Received) and record.result.purpose is Purpose.TRAIN and record.result.pairs:
                data, number = self._found(places, record.result.group_id)
                yield from _pairs(record.result, data.groups[number], data)

    def _found(self, places: Mapping[str, tuple[DataSet, int]], group_id: str) -> tuple[DataSet, int]:
        try:
            return places[group_id]
        except KeyError:
            fix = "restore the data set that the run was trained with"
            raise UserError(f"no group {group_id!r}, which the run has trained", where=self._data[0].path, fix=fix) from None


def _pairs(result: GroupResult, group: InstructionGroup, data: DataSet) -> Iterator[Preference]:
    for pair in result.pairs:
        rejected = result.completions[pair.rejected]
        chosen = _chosen(result, pair, rejected, group, data)
        spans = rejected.spans
        yield Preference(group, chosen, _answer(rejected, group, data), str(spans[-1].version) if spans else "")


def _chosen(result: GroupResult, pair: PreferencePair, rejected: Completion, group: InstructionGroup, data: DataSet) -> Answer:
    if pair.chosen != REFERENCE:
        return _answer(result.completions[pair.chosen], group, data)
    utterance = group.utterances[rejected.utterance]
    return Answer(group.reference, utterance, clip_of(data, utterance), result.reference_reward)


def _answer(completion: Completion, group: InstructionGroup, data: DataSet) -> Answer:
    utterance = group.utterances[completion.utterance]
    return Answer(completion.text, utterance, clip_of(data, utterance), completion.reward)
