"""Policy versions inside vLLM's workers: rba's weight-transfer engine, registered as `zmq` by the plugin. Edge: vllm, torch.

vLLM drives the transfer by three calls. `start` and `finish` do nothing here; `update` comes twice:

    stage "map"     while requests run: map the version's file, compare its table with the checkpoint's, start hashing its bytes
    stage "apply"   in the pause: wait for the hash, then reload every layer within this one call

vLLM's layerwise reload takes a model apart and puts it together again. Between the two it must neither run a request nor fail, so
all that can be wrong with a version is looked for before.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from safetensors import safe_open
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo

from actors.rollout.generation import RefusedVersionError
from protocol.weights.files import DamagedVersionError, OpenVersion, open_version
from protocol.weights.messages import Manifest, TensorEntry

REFUSED = "refused, nothing was touched"
"""Part of every message about a version that was refused; between vLLM's processes only the text of an error survives."""
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass
class InitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """Nothing needs to be agreed upon: versions lie in shared memory."""


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """One of the two stages for one policy version."""

    stage: str
    """map | apply"""
    directory: str
    policy_version: str
    digest: str
    """The learner's digest of all bytes."""


class VersionTransferEngine(WeightTransferEngine[InitInfo, UpdateInfo]):  # type: ignore[misc]
    """One a worker, so one a tensor-parallel rank; all ranks of a machine map the same file."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo
    supports_draft_weight_update = False
    _mapped: MappedVersion | None = None
    _reloaded: frozenset[str] = frozenset()
    """Parts of the model that are no longer as the checkpoint has them."""

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """Nothing to connect to."""

    def start_weight_update(self) -> None:
        """Nothing: the model stays whole until all bytes are known to be right."""

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Map or apply a version. Raises `RefusedVersionError` before anything is touched."""
        if update_info.stage == "map":
            self._forget()
            self._mapped = MappedVersion(update_info, self._shapes())
            return
        mapped = self._mapped
        if mapped is None or mapped.info.policy_version != update_info.policy_version:
            raise RefusedVersionError(f"policy version {update_info.policy_version} is not mapped: {REFUSED}")
        mapped.wait()
        self._reload(mapped)
        self._forget()

    def finish_weight_update(self) -> None:
        """Give a version free that was mapped and not applied."""
        self._forget()

    def shutdown(self) -> None:
        """Give a mapped version free."""
        self._forget()

    def _forget(self) -> None:
        self._mapped = None

    def _shapes(self) -> dict[str, list[int]]:
        """Of the checkpoint's tensors, without those that vLLM leaves out of this model (another part's, such as a talker's)."""
        shapes = checkpoint_shapes(self._checkpoint)
        mapper = getattr(self.model, "hf_to_vllm_mapper", None)
        return {name: shape for name, shape in shapes.items() if mapper is None or mapper.map_name(name) is not None}

    def _reload(self, mapped: MappedVersion) -> None:
        """Reload the parts of the model that the version has tensors of; parts that always were the checkpoint's are not touched.

        vLLM puts a layer together anew once any tensor of it comes, and fuses several into one, so a part is reloaded whole: what the
        version leaves out of it comes from the checkpoint.
        """
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

        self._reloaded |= {self._part(entry.name) for entry in mapped.manifest.tensors}
        touched = self._reloaded
        rest = {name for name in mapped.manifest.unchanged if self._part(name) in touched}
        parts = [module for name, module in self.model.named_children() if name in touched]
        with torch.no_grad():
            for part in parts:
                initialize_layerwise_reload(part)
            loaded = self.model.load_weights(chain(mapped.tensors(), checkpoint_tensors(self._checkpoint, rest)))
            for part in parts:
                finalize_layerwise_reload(part, self.model_config)
        expected = {name for name, _ in self.model.named_parameters() if name.split(".", 1)[0] in touched}
        missing = expected - set(loaded or ())
        if loaded is not None and missing:
            raise RuntimeError(f"policy version {mapped.info.policy_version} left {len(missing)} parameters as they were: {min(missing)}")

    @property
    def _checkpoint(self) -> Path:
        return Path(self._default_model_config.model)

    def _part(self, released: str) -> str:
        """The child of vLLM's model, such as ``language_model``, that a tensor of the checkpoint belongs to."""
        mapper = getattr(self.model, "hf_to_vllm_mapper", None)
        return str(mapper.map_name(released) if mapper is not None else released).split(".", 1)[0]


class MappedVersion:
    """A policy version in this worker's address space, and a thread that hashes it."""

    def __init__(self, info: UpdateInfo, shapes: dict[str, list[int]]) -> None:
        """Raises `RefusedVersionError` unless the folder holds the version that `info` names, with tensors of exactly these `shapes`
        but for those that it says are unchanged.
        """
        self.info = info
        try:
            self._version = open_version(Path(info.directory))
        except DamagedVersionError as error:
            raise RefusedVersionError(f"{error}: {REFUSED}") from error
        fault = find_fault(self._version.manifest, info, shapes)
        if fault:
            raise RefusedVersionError(f"{info.directory}: {fault}: {REFUSED}")
        hasher = ThreadPoolExecutor(1, "verify weights")
        self.manifest = self._version.manifest
        self._verified: Future[None] = hasher.submit(self._version.verify)
        hasher.shutdown(wait=False)

    def wait(self) -> None:
        """Return once the bytes are known to have the digest. Raises `RefusedVersionError`."""
        try:
            self._verified.result()
        except DamagedVersionError as error:
            raise RefusedVersionError(f"{error}: {REFUSED}") from error

    def tensors(self) -> Iterable[tuple[str, torch.Tensor]]:
        """Every tensor by its released name, where it lies in shared memory: to be read, never written."""
        for entry in self.manifest.tensors:
            yield entry.name, _tensor(self._version, entry)


def find_fault(manifest: Manifest, info: UpdateInfo, shapes: dict[str, list[int]]) -> str:
    """What is wrong with a version's table of contents, or ""."""
    if str(manifest.policy_version) != info.policy_version or manifest.digest != info.digest:
        return f"holds {manifest.policy_version} ({manifest.digest}), not {info.policy_version} ({info.digest})"
    found = {entry.name: list(entry.shape) for entry in manifest.tensors}
    if len(found) != len(manifest.tensors):
        return "names a tensor twice"
    unchanged = set(manifest.unchanged)
    named = found.keys() | unchanged
    wrong = {
        "missing": shapes.keys() - named,
        "unknown": named - shapes.keys(),
        "there and said to be unchanged": found.keys() & unchanged,
    }
    for title, names in wrong.items():
        if names:
            return f"{len(names)} tensors are {title}, for example {min(names)}"
    for entry in manifest.tensors:
        if list(entry.shape) != shapes[entry.name]:
            return f"{entry.name} has shape {entry.shape}, the checkpoint's has {shapes[entry.name]}"
        if entry.dtype not in DTYPES:
            return f"{entry.name} has dtype {entry.dtype}, known are {', '.join(DTYPES)}"
        if entry.size_bytes != torch.Size(entry.shape).numel() * DTYPES[entry.dtype].itemsize:
            return f"{entry.name} has {entry.size_bytes} bytes, which is not what its shape and dtype take"
    return ""


def checkpoint_shapes(directory: Path) -> dict[str, list[int]]:
    """Shape of every tensor of a safetensors checkpoint, by its released name; reads the files' headers only."""
    shapes: dict[str, list[int]] = {}
    for file in sorted(directory.glob("model*.safetensors")):
        with safe_open(file, framework="np") as opened:
            for name in opened.keys():  # noqa: SIM118 - no mapping, it has no iterator
                shapes[name] = list(opened.get_slice(name).get_shape())
    return shapes


def checkpoint_tensors(directory: Path, names: set[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """The named tensors of a safetensors checkpoint, one after the other."""
    for file in sorted(directory.glob("model*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in sorted(names & set(opened.keys())):
                yield name, opened.get_tensor(name)


def _tensor(version: OpenVersion, entry: TensorEntry) -> torch.Tensor:
    if not entry.size_bytes:
        return torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")  # true, and nobody writes
        flat = torch.frombuffer(version.tensor_bytes(entry), dtype=DTYPES[entry.dtype])
    return flat.view(entry.shape)
