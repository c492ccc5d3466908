from __future__ import annotations

import asyncio
import json
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from actors.rewards.server import RewardServer
from actors.rollout.audio import AudioLibrary
from configs import loader
from configs.sampling import RewardsSection
from configs.schema import RunConfig
from ops import assets, plan, preflight, rundir, topology
from protocol.dataset import DataSet
from protocol.errors import UserError
from protocol.keyring import Keyring
from tests.ops import synthetic

TOKEN = "a-token-of-some-length"


@pytest.fixture
def reward_url() -> Iterator[str]:
    """A real server that wants a token."""
    server = RewardServer(RewardsSection(scorer="bleu"), "127.0.0.1", 0, token=TOKEN)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield server.url
    server.stop("test ends")
    thread.join(60)


def configured(tmp_path: Path, *overrides: str) -> RunConfig:
    manifest = synthetic.data_set(tmp_path / "data")
    fixed = [f"data.train={manifest}", f"data.test={manifest}", "rewards.scorer=bleu", f"run.directory={tmp_path / 'runs'}"]
    return loader.load("quickstart", [*fixed, *overrides])


def test_a_sound_data_set_passes(tmp_path: Path) -> None:
    preflight._check_data(configured(tmp_path))


def test_a_data_set_behind_a_url_passes_and_actors_hear_it(tmp_path: Path) -> None:
    manifest = synthetic.data_set(tmp_path / "data")
    url = f"memory://{uuid.uuid4().hex}"
    files, root = fsspec.url_to_fs(url)
    files.put(str(manifest.parent), root, recursive=True)
    config = configured(tmp_path, f"data.train={url}/{manifest.name}", f"data.test={url}/{manifest.name}")
    assert assets.file_path(config.data.train, "data.train") == config.data.train
    preflight._check_data(config)
    assert rundir.file_digest(config.data.train) == rundir.file_digest(manifest)
    data = DataSet.open(config.data.train)
    [audio, *_] = [one.audio for group in data.groups for one in group.utterances if one.audio]
    assert len(asyncio.run(AudioLibrary([data], 30.0).samples(audio)))
    files.rm(root, recursive=True)
    with pytest.raises(UserError, match="cannot be read"):
        preflight._check_data(config)


def test_epochs_become_steps(tmp_path: Path) -> None:
    config = configured(tmp_path, "learner.epochs=2.5", "learner.batch_groups=2", "rollout.capacity_groups=2")
    preflight._check_data(config)
    assert config.learner.steps == 4  # 2.5 times 3 groups, 2 a step
    other = synthetic.data_set(tmp_path / "other")
    config.data.mix = {str(other): 0.5}
    preflight._check_data(config)
    assert config.learner.steps == 8


def test_audio_that_is_gone_is_named(tmp_path: Path) -> None:
    config = configured(tmp_path)
    gone = next((tmp_path / "data").glob("audio/*/*.flac"))
    gone.unlink()
    with pytest.raises(UserError, match=gone.name):
        preflight._check_data(config)


def test_a_language_without_its_tokenizer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from actors.rewards.scorers import bleu

    config = configured(tmp_path)
    manifest = Path(config.data.train)
    manifest.write_text("".join(json.dumps({**json.loads(line), "language": "ja"}) + "\n" for line in manifest.read_text().splitlines()))
    real = bleu._metric

    def without_mecab(tokenizer: str) -> object:
        if tokenizer == "ja-mecab":
            raise RuntimeError
        return real(tokenizer)

    monkeypatch.setattr(bleu, "_metric", without_mecab)
    with pytest.raises(UserError, match=r"'ja' needs the tokenizer ja-mecab"):
        preflight._check_data(config)
    config.evaluation.groups = 0
    with pytest.raises(UserError, match=r"ja-mecab"):
        preflight._check_data(config)
    config.strategy = "single"
    preflight._check_data(config)


@pytest.mark.parametrize(("scorers", "refused"), [("chrf", False), ("qa", False), ("chrf,bleu", True)])
def test_only_bleu_needs_tokenizers_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scorers: str, *, refused: bool) -> None:
    from actors.rewards.scorers import bleu

    parts = [f"rewards.combination.{name}.scorer={name}" for name in scorers.split(",")]
    config = configured(tmp_path, "evaluation.groups=0", "rewards.scorer=combination", *parts)
    monkeypatch.setattr(bleu, "_metric", lambda tokenizer: (_ for _ in ()).throw(RuntimeError))
    if refused:
        with pytest.raises(UserError, match="tokenizer 13a"):
            preflight._check_data(config)
    else:
        preflight._check_data(config)


def test_a_data_set_without_references_is_named(tmp_path: Path) -> None:
    config = configured(tmp_path)
    manifest = Path(config.data.train)
    manifest.write_text("".join(json.dumps({**json.loads(line), "reference": " "}) + "\n" for line in manifest.read_text().splitlines()))
    with pytest.raises(UserError, match="the reference is empty"):
        preflight._check_data(config)


def test_a_function_that_is_not_there_and_a_judge_that_is_away_are_told_before_anything_starts(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    preflight._check_scorers(configured(tmp_path, "rewards.scorer=python", "rewards.python.function=statistics:mean"), {})
    with pytest.raises(UserError, match=r"rewards\.python\.function: .*did you mean mean\?"):
        preflight._check_scorers(configured(tmp_path, "rewards.scorer=python", "rewards.python.function=statistics:meen"), {})
    judge = ["scorer=judge", f"judge.url=http://127.0.0.1:{unused_tcp_port}/v1", "judge.model=m", "judge.attempts=1"]
    combined = ["rewards.scorer=combination", *(f"rewards.combination.taste.{key}" for key in judge)]
    with pytest.raises(UserError, match=r"rewards\.combination\.taste\.judge\.url: .*does not answer"):
        preflight._check_scorers(configured(tmp_path, *combined), {})
    preflight._check_scorers(configured(tmp_path, *combined, "strategy=single", "rewards.urls=[http://127.0.0.1:1]"), {})


def test_a_judges_key_may_be_known_on_the_clusters_machines_alone(tmp_path: Path) -> None:
    judge = ["judge.url=http://127.0.0.1:9/v1", "judge.model=m", "judge.api_key_env=JUDGE_KEY_OF_NOBODY"]
    judged, said = ["rewards.scorer=judge", *(f"rewards.{key}" for key in judge)], list[str]()
    with pytest.raises(UserError, match="the environment has no JUDGE_KEY_OF_NOBODY"):
        preflight._check_scorers(configured(tmp_path, *judged), {}, said.append)
    preflight._check_scorers(configured(tmp_path, *judged, "ray.address=10.0.0.1:6379"), {}, said.append)
    assert said == ["rewards.judge is asked by the reward servers alone: JUDGE_KEY_OF_NOBODY is not set here"]


def test_a_damaged_manifest_is_named_with_its_line(tmp_path: Path) -> None:
    config = configured(tmp_path)
    with Path(config.data.train).open("a") as manifest:
        manifest.write("{not json\n")
    with pytest.raises(UserError, match="line 4"):
        preflight._check_data(config)


def test_a_taken_port_is_named_with_its_key(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=r"network\.pairs_port"):
            preflight._check_ports(configured(tmp_path, f"network.pairs_port={port}"))
    preflight._check_ports(configured(tmp_path, f"network.pairs_port={port}"))


def test_reward_servers_must_score(tmp_path: Path, reward_url: str) -> None:
    shown = {"RBA_REWARDS_TOKEN": TOKEN}
    preflight._check_reward_servers(configured(tmp_path, f"rewards.urls=[{reward_url}]"), shown)
    with pytest.raises(UserError, match=r"404.*start the server"):
        preflight._check_reward_servers(configured(tmp_path, f"rewards.urls=[{reward_url}/elsewhere]"), shown)
    with pytest.raises(UserError, match="scores by bleu, the run by armorm"):
        preflight._check_reward_servers(configured(tmp_path, f"rewards.urls=[{reward_url}]", "rewards.scorer=armorm"), shown)
    with pytest.raises(UserError, match=r"401.*rewards\.token_file"):
        preflight._check_reward_servers(configured(tmp_path, f"rewards.urls=[{reward_url}]"), {})
    preflight._check_reward_servers(
        configured(tmp_path, f"rewards.urls=[{reward_url}]", "rewards.protocol=openrlhf", "rewards.model=null"), shown
    )


def test_a_token_that_cannot_be_read_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        preflight._check_reward_servers(configured(tmp_path, f"rewards.token_file={tmp_path / 'nothing'}"), {})


def test_a_full_disk_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(tmp_path)
    preflight._check_disk(config)
    monkeypatch.setattr(preflight, "SPARE_BYTES", 1 << 60)
    with pytest.raises(UserError, match="make room"):
        preflight._check_disk(config)


def test_nccl_needs_a_gpu_and_gloo_does_not(tmp_path: Path) -> None:
    bare, fitted = (plan.Machine(cpus=2, gpus=gpus, shared_memory_bytes=1 << 34) for gpus in (0, 1))
    config = configured(tmp_path, "weights.backend=nccl")
    preflight._check_gpu(config, fitted)
    with pytest.raises(UserError, match=r"no GPU.*weights\.backend"):
        preflight._check_gpu(config, bare)
    for other in (["weights.backend=zmq"], ["weights.backend=nccl", "weights.collective=gloo"]):
        preflight._check_gpu(configured(tmp_path, *other), bare)


def test_a_cluster_must_listen(tmp_path: Path, reward_url: str) -> None:
    listening = reward_url.removeprefix("http://")
    preflight._check_cluster(configured(tmp_path, f"ray.address={listening}"))
    preflight._check_cluster(configured(tmp_path, "ray.address=auto"))
    for address in ("127.0.0.1:1", "127.0.0.1:port"):
        with pytest.raises(UserError, match="ray start"):
            preflight._check_cluster(configured(tmp_path, f"ray.address={address}"))


def test_the_folder_for_copies_must_take_a_file(tmp_path: Path) -> None:
    said: list[str] = []
    preflight._check_copies(configured(tmp_path), said.append)
    assert said == []
    preflight._check_copies(configured(tmp_path, f"learner.checkpoint_copies=file://{tmp_path}/copies"), said.append)
    assert said
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"learner\.checkpoint_copies: file:.*cannot be written"):
        preflight._check_copies(configured(tmp_path, f"learner.checkpoint_copies=file://{tmp_path}/file/copies"), said.append)


def test_keys_are_made_and_named_by_their_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config, said = configured(tmp_path, "network.keys=keys"), list[str]()
    preflight._check_keys(config, said.append)
    assert config.network.keys == str(tmp_path / "keys")
    assert len(said) == 5
    preflight._check_keys(config, said.append)
    assert len(said) == 5
    Keyring(config.network.keys).revoke("actor")
    with pytest.raises(UserError, match="not allowed"):
        preflight._check_keys(config, said.append)


def test_no_secret_reaches_a_runs_configuration_or_a_roles_arguments(tmp_path: Path) -> None:
    config = configured(tmp_path, f"network.keys={tmp_path / 'keys'}", "network.bind=0.0.0.0")
    said: list[str] = []
    preflight._check_keys(config, said.append)
    run = rundir.create(config, tmp_path / "run")
    rundir.write_config(run, config, rundir.provenance("quickstart", ["network.keys=keys"], {}))
    wiring = topology.lay_out(run, plan.make(config, plan.Machine(2, 0, 1 << 34)), ["10.0.0.1"], 1, {})
    told = [*said, run.config.read_text(), repr(wiring.specs), repr(wiring.kwargs("weight_store-0", {}, {})), repr(config)]
    keys = Keyring(tmp_path / "keys")
    for name in ("server", "actor"):
        assert keys.pair(name).secret.decode() not in "".join(told)
    assert str(keys.folder) in run.config.read_text()
