"""The learner's process: one rank. Rank 0 talks to the actors and leads, the others follow its orders. Edge: torch, deepspeed."""

from __future__ import annotations

import os
import socket
import uuid
from collections import deque
from pathlib import Path
from typing import Any

from configs.schema import RunConfig
from configs.training import LossSection
from learner.checkpoint import STATE
from learner.clips import Clips
from learner.engine import Engine, prepare_environment
from learner.exchange import Exchange
from learner.frontier import Frontier, Source
from learner.gauges import Gauges
from learner.history import History, fold
from learner.intake import Intake
from learner.journal import JOURNAL
from learner.journal.disk import Disk, PosixDisk
from learner.journal.journal import SEGMENT_BYTES, Journal
from learner.journal.records import Began
from learner.journal.recovery import read_all
from learner.life import Life
from learner.logbook import Logbook
from learner.publish import gather
from learner.ranks import End, Publish, Ranks, Restore, Save, Train
from learner.rollback import restore
from learner.selection import by_topic
from learner.session import Session
from learner.training_state import SavedTensors
from policies.adapter import adapter
from protocol.audio import Samples
from protocol.dataset import DataSet, open_mixture
from protocol.dialogue.learner import LearnerDialogue
from protocol.errors import UserError
from protocol.gate import server_door
from protocol.keyring import Keyring
from protocol.links.learner import LearnerLink
from protocol.logs import configure, get_logger
from protocol.metrics import Metrics
from protocol.role import RoleDescription


class Learner:
    """One rank of the learner (a `protocol.role.Role`).

    `config.model.path` is a folder of this machine, `config.data.train` and `config.data.test` are files of it or URLs; names of the Hub
    and of asset providers are resolved before. `master` is "host:port" of rank 0, where the ranks meet (see `learner.ranks.Ranks`).
    `lineage` is new in every life of the run. `checkpoint` is the folder that it goes on from, on rank 0's machine; the other ranks need
    only know of it. With `replay_of`, a run's folder, nothing is leased: the steps in that run's journal are taken again.
    `salvage` gives up what is damaged in the journal, which is refused otherwise.
    """

    def __init__(
        self,
        config: RunConfig,
        run_dir: Path | str,
        weights_root: Path | str,
        rank: int = 0,
        world_size: int = 1,
        master: str = "",
        lineage: int = 0,
        checkpoint: Path | str | None = None,
        replay_of: Path | str | None = None,
        salvage: bool = False,
    ) -> None:
        self._config, self._run_dir, self._weights_root = config, Path(run_dir), Path(weights_root)
        self._rank, self._world_size, self._master = rank, world_size, master
        self._checkpoint = Path(checkpoint) if checkpoint is not None else None
        self._stop_reason = ""
        configure(self._run_dir, f"learner-{rank}")
        self._log = get_logger("learner")
        self._family = adapter(config.model.adapter)
        self._family.check(Path(config.model.path))
        self._train = open_mixture(config.data.train, config.data.mix)
        self._test, self._validation = (self._open(key) for key in ("test", "validation"))
        self._metrics = Metrics("learner", str(rank), bare=rank > 0)
        self._session: Session | None = None
        self._link: LearnerLink | None = None
        self._salvage = salvage
        self._replay_of = Path(replay_of) if replay_of is not None else None
        self._journal: Journal | None = None
        self._frontier: Frontier | None = None
        self._gauges: Gauges | None = None
        self._history = History(Life(lineage=lineage))
        if rank == 0:
            self._gauges = Gauges(self._metrics)
            self._gauges.watch_disk(self._run_dir)
            life = Life.read(self._checkpoint, lineage) if self._checkpoint is not None else Life(lineage=lineage)
            self._history = self._open_journal(life)
            section, life = config.learner, self._history.life
            self._gauges.restored(life.ledger(self._history.results), life.counts())
            weights = (1.0, *config.data.mix.values())
            sources = [Source(data.groups, weight) for data, weight in zip(self._train, weights, strict=True)]
            self._frontier = Frontier(sources, config.run.seed, shuffle=config.data.shuffle, state=life.frontier)
            dialogue = LearnerDialogue(
                config.run.name,
                uuid.uuid4().hex,
                life.version,
                section.heartbeat_s,
                section.lease_deadline_s,
                ledger=life.ledger(self._history.results),
                settled=life.settled(),
                wanted=self._frontier.wanted(),
            )
            keys = config.network.keys
            door = server_door(Keyring(keys), "pairs", self._metrics.refusals("pairs")) if keys is not None else None
            self._link = LearnerLink(config.network.bind, config.network.pairs_port, dialogue, door, self._metrics.messages_refused)
            self._link.start()
        self._metrics_url = self._metrics.serve(config.network.bind)

    def _open_journal(self, life: Life) -> History:
        """What the journal has behind the checkpoint that `life` begins at; this life writes on behind it."""
        needs: dict[str, Any] = {"first_needed": life.journal_needs, "last_known": life.journal_at}
        if self._replay_of is not None:
            found = read_all(PosixDisk(self._replay_of / JOURNAL), salvage=self._salvage, **needs)
            self._journal, _ = Journal.open(self._disk())
            return fold(life, found.records())
        disk = self._disk()
        if life.journal_at and not disk.names():
            self._log.warning("no journal", at="a checkpoint without one is gone on from: what it had not trained is leased again")
            needs["salvage"] = True  # so that no sequence is given twice
        segment_bytes = min(SEGMENT_BYTES, self._config.learner.journal_limit_bytes // 8)  # only whole files are freed
        self._journal, found = Journal.open(disk, segment_bytes=segment_bytes, **{"salvage": self._salvage, **needs})
        return fold(life, found.records())

    def _disk(self) -> Disk:
        return PosixDisk(self._run_dir / JOURNAL)

    def _open(self, key: str) -> DataSet | None:
        path = self._config.manifests.get(key)
        return DataSet.open(path) if path else None

    def describe(self) -> RoleDescription:
        """Where it can be found; rank 0 has the endpoint ``pairs``."""
        return {
            "role": "learner",
            "id": f"learner-{self._rank}",
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "endpoints": {"pairs": self._link.endpoint} if self._link is not None else {},
            "metrics_url": self._metrics_url,
        }

    def run(self) -> dict[str, Any]:
        """The whole run, or this rank's part of it. Returns the closing figures (rank 0 alone has some)."""
        prepare_environment(self._config.learner)
        ranks = Ranks(self._rank, self._world_size, self._master)
        try:
            return self._run(ranks)
        except BaseException:
            self._log.exception("learner failed")
            raise
        finally:
            if self._link is not None and not (self._session is not None and self._session.closed):
                self._link.abandon()
            if self._journal is not None:
                self._journal.close()
            ranks.close()  # the other ranks' collectives then fail as well
            self._metrics.close()

    def _run(self, ranks: Ranks) -> dict[str, Any]:
        config = self._config
        processing = self._family.open(Path(config.model.path))
        clips = Clips(self._samples, processing)
        loss, life = effective_loss(config), self._history.life
        saved = SavedTensors(self._checkpoint / STATE, ranks) if self._checkpoint is not None else None
        updates = int(ranks.sum([float(life.updates)])[0])  # rank 0 alone has read it
        engine = Engine(
            config.learner,
            loss,
            self._family,
            Path(config.model.path),
            processing,
            clips,
            ranks,
            seed=config.run.seed,
            saved=saved,
            updates=updates,
        )
        if self._link is None:
            return follow(engine, ranks, config.model.dtype)
        if self._journal is None or self._frontier is None or self._gauges is None:
            raise AssertionError("rank 0 has a journal, a frontier and gauges")
        gauges = self._gauges
        intake = Intake(
            config.strategy, loss, config.learner.max_policy_lag, life.lineage, processing.vocabulary, life.counts(), life.ancestry
        )
        intake.set_aside(life.frontier.set_aside, life.recovery.rolled_back_at)
        limit_bytes = config.learner.journal_limit_bytes
        logbook = Logbook(self._journal, gauges, self._history.sequences, limit_bytes=limit_bytes, known=life.journal_at)
        logbook.note(Began(life.lineage, life.step, str(self._checkpoint or ""), life.frontier.lease_epoch))
        self._session = Session(
            config,
            self._run_dir,
            self._weights_root,
            engine=engine,
            ranks=ranks,
            family=self._family,
            exchange=Exchange(config, self._link, self._frontier, intake, clips, gauges, logbook),
            gauges=gauges,
            validation=by_topic(self._validation.groups, config.validation.groups_per_topic) if self._validation is not None else [],
            held_out=self._test.groups[: config.evaluation.groups] if self._test is not None else [],
            history=self._history,
            checkpoints_of=self._replay_of or self._run_dir,
            logbook=logbook,
            stop=lambda: self._stop_reason,
        )
        return self._session.run() if self._replay_of is None else {"digests": self._session.replay()}

    def _samples(self, audio: str) -> Samples:
        data = next((data for data in self._train if data.has(audio)), self._train[0])
        return data.samples(audio, self._config.data.max_audio_s)

    def status(self) -> dict[str, Any]:
        """Where the run is; rank 0 knows, the others say so."""
        if self._session is None:
            return {"state": "starting" if self._rank == 0 else "following", "rank": self._rank}
        return self._session.status()

    def stop(self, reason: str) -> None:
        """End after the current step, with a checkpoint. Ranks other than 0 follow rank 0 and ignore it."""
        self._stop_reason = self._stop_reason or reason or "stopped"


def effective_loss(config: RunConfig) -> LossSection:
    """The loss that the strategy trains: plain SFT is equation 1 alone, at full weight and without a reference model."""
    if config.strategy != "sft":
        return config.loss
    return config.loss.model_copy(update={"lambda_ce": 1.0, "reference_model": "none", "ce_utterances": "all"})


def follow(engine: Engine, ranks: Ranks, dtype: str) -> dict[str, Any]:
    """Consumes: rank 0's orders. Produces: this rank's share of each step. Waits for: the next order. Unblocked by: rank 0."""
    while True:
        match order := ranks.order():
            case Train():
                engine.step(ranks.share(order.batch), order.step)
            case Publish():
                gather(engine, dtype, trained=True)
            case Save():
                gather(engine, dtype)
                deque(engine.training_state.gathered(), maxlen=0)
            case Restore():
                restore(engine, ranks, order)
            case End():
                return {"status": order.reason}
            case _:
                continue


def main() -> None:
    """Start one rank where there is no Ray: ``torchrun --nproc-per-node N -m learner.main CONFIG RUN_DIR WEIGHTS_ROOT``."""
    import sys

    import yaml

    if len(sys.argv) != 4:
        sys.exit("learner.main: three arguments are needed: CONFIG RUN_DIR WEIGHTS_ROOT")
    config = RunConfig.model_validate(yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8")))
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    try:
        Learner(config, sys.argv[2], sys.argv[3], rank, world_size).run()
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
