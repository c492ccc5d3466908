"""What is checked before a run starts anything: names, model, data, audio, ports, reward servers, room on disk, copies of checkpoints.

Each failure is a `UserError` that names the configuration's key.
"""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from actors.rewards import bearer
from actors.rewards.client import RewardClient
from configs.schema import RunConfig
from ops import assets, memory
from ops.plan import Machine
from ops.tokens import needs_token, token_found
from protocol.destination import Destination
from protocol.errors import UserError

CHECKED_GROUPS = 4
"""Groups whose audio is opened; the actors check each of the others when they load it."""
REWARD_WAIT_S = 0.1
"""Before a reward server that does not answer is asked again, doubled each time."""
CLUSTER_TIMEOUT_S = 5.0
SPARE_BYTES = 200 << 20
"""Room for logs, events and samples."""
CHECKPOINTS = 2
"""Checkpoints that must fit, in the published precision."""

Say = Callable[[str], None]


def check(config: RunConfig, say: Say) -> RunConfig:
    """`config` with every name resolved to a path, once all checks have passed. Makes or downloads what is missing."""
    _check_ports(config)
    _check_gpu(config, Machine.here())
    _check_cluster(config)
    _check_token(config, os.environ)
    _check_reward_servers(config, os.environ, say)
    _check_scorers(config, os.environ, say)
    _check_copies(config, say)
    resolved = assets.resolve(config, say)
    _check_keys(resolved, say)
    say("checking the checkpoint")
    _check_model(resolved)
    say("checking the data set")
    _check_data(resolved)
    _check_disk(resolved)
    return resolved


def _check_model(config: RunConfig) -> None:
    from policies.adapter import adapter

    adapter(config.model.adapter).check(Path(config.model.path))


def _check_data(config: RunConfig) -> None:
    """Every line of the manifests, the audio of the first groups, and that BLEU knows the languages. Turns epochs into steps."""
    from actors.rewards.scorers.bleu import require_tokenizers
    from protocol.dataset import DataSet

    scorers = {part.scorer for part in config.rewards.parts.values()} if config.serves_rewards else set()
    training_groups = 0
    for key, path in config.manifests.items():
        data = DataSet.open(path)
        if key in {"test", "validation"} or "bleu" in scorers:  # held-out answers are always measured by BLEU too
            require_tokenizers({group.language for group in data.groups}, path)
        training_groups += len(data.groups) if key not in {"test", "validation"} else 0
        for group in data.groups[:CHECKED_GROUPS]:
            for utterance in group.utterances:
                if utterance.audio is not None:
                    data.samples(utterance.audio, config.data.max_audio_s)
    if config.learner.epochs is not None:
        config.learner.steps = math.ceil(config.learner.epochs * training_groups / config.learner.batch_groups)


def _check_ports(config: RunConfig) -> None:
    network = config.network
    listed = {"pairs_port": (network.bind, network.pairs_port), "weights_port": (network.bind, network.weights_port)}
    listed["control_port"] = ("127.0.0.1", network.control_port)
    for key, (host, port) in listed.items():
        if port == 0:
            continue
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                fix = f"choose another port, or network.{key}=0 for a free one"
                raise UserError(f"the port cannot be had: {error.strerror}", where=f"network.{key}: {host}:{port}", fix=fix) from None


def _check_gpu(config: RunConfig, machine: Machine) -> None:
    """That the learner's machine can broadcast by NCCL; the others are asked when their fetchers start."""
    if config.weights.backend == "nccl" and config.weights.collective == "nccl" and not machine.gpus:
        fix = "set weights.backend=zmq, or weights.collective=gloo to broadcast between CPUs"
        raise UserError("this machine has no GPU to broadcast from", where="weights.backend: nccl", fix=fix)


def _check_cluster(config: RunConfig) -> None:
    """That something listens at the cluster's address; Ray itself would try for minutes."""
    address = config.ray.address
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon:
        return  # none, or "auto", which Ray looks up on this machine
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CLUSTER_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        fix = "start the cluster with `ray start`, or leave ray.address out to have one started on this machine"
        raise UserError(f"no Ray cluster answers: {error}", where=f"ray.address: {address}", fix=fix) from None


def _check_token(config: RunConfig, environment: Mapping[str, str]) -> None:
    """That this machine has the token of a cluster of several machines: without one, whoever reaches the cluster runs programs on it."""
    if not needs_token(config) or token_found(environment):
        return
    raise UserError(
        "there is no token for a Ray cluster that other machines reach, and without one anybody there may run programs on it",
        where=f"ray.address: {config.ray.address}",
        fix="make one with `ray get-auth-token --generate`, copy ~/.ray/auth_token to each machine and start the cluster with "
        "RAY_AUTH_MODE=token; or set network.insecure=true on a network that you trust",
    )


def _check_keys(config: RunConfig, say: Say) -> None:
    """The keys of the sockets, by absolute path; what is missing is made."""
    if config.network.keys is None:
        return
    from protocol.keyring import Keyring

    keys = Keyring(Path(config.network.keys).expanduser().absolute())
    for line in keys.complete():
        say(line)
    keys.check()
    config.network.keys = str(keys.folder)


def _check_reward_servers(config: RunConfig, environment: Mapping[str, str], say: Say = lambda _: None) -> None:
    """That each of those that run already scores an item, and that the token can be read."""
    if not config.uses_rewards:
        return
    token, section = bearer.read(config.rewards.token_file, environment), config.rewards.model_copy()
    if not section.urls:
        return
    if section.tokenizes and section.model is not None:
        section.model = str(assets.model_path(section.model, "rewards.model", say))

    async def check() -> None:
        client = RewardClient(section.urls, section, token=token, first_wait_s=REWARD_WAIT_S)
        try:
            await client.check()
        finally:
            await client.aclose()

    asyncio.run(check())


def _check_scorers(config: RunConfig, environment: Mapping[str, str], say: Say = lambda _: None) -> None:
    """That the user's functions are there, and that the judges answer; a judge's key may be known on a cluster's machines alone."""
    from actors.rewards.scorers.function import FunctionScorer
    from actors.rewards.scorers.judge import JudgeScorer

    for key, part in (config.rewards.parts if config.serves_rewards else {}).items():
        if part.scorer == "python":
            FunctionScorer(part.python, f"{key}.python")
        key_of = part.judge.api_key_env
        if part.scorer == "judge" and config.ray.address and key_of and not environment.get(key_of):
            say(f"{key}.judge is asked by the reward servers alone: {key_of} is not set here")
        elif part.scorer == "judge":
            JudgeScorer(part.judge, f"{key}.judge").close()


def _check_copies(config: RunConfig, say: Say) -> None:
    if config.learner.checkpoint_copies is not None:
        say("checking where checkpoints are copied to")
        Destination(config.learner.checkpoint_copies, "learner.checkpoint_copies").check()


def _check_disk(config: RunConfig) -> None:
    size = memory.model_size(config.model.path)
    needed = SPARE_BYTES + (CHECKPOINTS * memory.version_bytes(size, config) if size else 0)
    folder = Path(config.run.directory).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{memory.human(free)} are free, and the run's checkpoints and logs may take {memory.human(needed)}",
            where=str(folder),
            fix="make room, or set run.directory to another disk",
        )
