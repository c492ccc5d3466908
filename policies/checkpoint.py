"""A checkpoint folder as every family reads and writes it: config.json, safetensors with or without an index, companions. Edge: torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from protocol.errors import UserError

SHARD_BYTES = 4 << 30
COMPANION_SUFFIXES = {".json", ".jinja", ".txt", ".model"}
NOT_COMPANIONS = {"model.safetensors.index.json", "digests.json"}


def read_config(directory: Path) -> dict[str, Any]:
    """The checkpoint's config.json. Raises `UserError` where it is missing or damaged."""
    where = str(directory)
    config_file = directory / "config.json"
    if not config_file.is_file():
        raise UserError("no checkpoint here: config.json is missing", where=where, fix="set model.path to a Hugging Face checkpoint folder")
    try:
        config: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"config.json is damaged: {error}", where=where, fix="copy the checkpoint again") from error
    return config


def tensor_names(directory: Path) -> set[str]:
    """Names of all tensors in the checkpoint. Raises `UserError` where there are no safetensors files."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    single = directory / "model.safetensors"
    if not single.is_file():
        raise UserError("no model.safetensors here", where=str(directory), fix="convert the checkpoint to safetensors, or copy it again")
    with safe_open(single, framework="np") as opened:
        return set(opened.keys())


def raise_unless_loaded(info: dict[str, Any], directory: Path) -> None:
    """Raise `UserError` when transformers' loading info tells of a tensor that was missing, left over or of another shape."""
    problems = {kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if info.get(kind)}
    if problems:
        raise UserError(f"the weights do not fit the model: {problems}", where=str(directory), fix="check the checkpoint's config.json")


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file. Raises `OSError` where the disk refuses it; the library's own error is none."""
    try:
        save_file(tensors, str(path), metadata=metadata)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error


def save_copy(directory: Path, tensors: Iterable[tuple[str, Tensor]], source: Path, names: set[str], dtype: str) -> None:
    """Write a checkpoint: `tensors` by released name, and every other file copied from the checkpoint `source`.

    Raises `ValueError` unless the tensors are exactly those of `names`.
    """
    copy_companions(source, directory)
    set_dtype(directory, dtype)
    written = save_weights(directory, tensors, dtype)
    if written != names:
        raise ValueError(f"tensor names differ from the checkpoint's: missing {sorted(names - written)}, extra {sorted(written - names)}")


def copy_companions(source: Path, directory: Path) -> None:
    """Copy configuration, tokenizer and chat template into `directory`, which is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.is_file() and file.suffix in COMPANION_SUFFIXES and file.name not in NOT_COMPANIONS:
            shutil.copyfile(file, directory / file.name)


def save_weights(directory: Path, tensors: Iterable[tuple[str, Tensor]], dtype: str) -> set[str]:
    """Write safetensors files, in shards of `SHARD_BYTES` with an index when there is more than one. Returns the names."""
    target = getattr(torch, dtype)
    shards: list[dict[str, int]] = []
    pending: dict[str, Tensor] = {}

    def flush() -> None:
        save_tensors(pending, directory / f"shard-{len(shards)}.safetensors", {"format": "pt"})
        shards.append({name: tensor.nbytes for name, tensor in pending.items()})
        pending.clear()

    for name, tensor in tensors:
        if pending and sum(held.nbytes for held in pending.values()) + tensor.numel() * target.itemsize > SHARD_BYTES:
            flush()
        pending[name] = tensor.detach().to(device="cpu", dtype=target, copy=True).contiguous()
    flush()
    if len(shards) == 1:
        (directory / "shard-0.safetensors").rename(directory / "model.safetensors")
    else:
        weight_map = {}
        for number, shard in enumerate(shards):
            file_name = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
            (directory / f"shard-{number}.safetensors").rename(directory / file_name)
            weight_map.update(dict.fromkeys(shard, file_name))
        index = {"metadata": {"total_size": sum(sum(shard.values()) for shard in shards)}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True), encoding="utf-8")
    return {name for shard in shards for name in shard}


def set_dtype(directory: Path, dtype: str) -> None:
    """Have config.json, and every section of it that names a dtype, say `dtype`."""
    config = read_config(directory)
    _set_dtype(config, dtype)
    if "torch_dtype" not in config:
        config["dtype"] = dtype
    write_config(directory, config)


def write_config(directory: Path, config: dict[str, Any]) -> None:
    """Write config.json."""
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _set_dtype(section: dict[str, Any], dtype: str) -> None:
    for key, value in section.items():
        if key in {"dtype", "torch_dtype"}:
            section[key] = dtype
        elif isinstance(value, dict):
            _set_dtype(value, dtype)
