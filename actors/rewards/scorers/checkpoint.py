"""Edge file (torch, transformers, safetensors): reward models on disk."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging

from actors.rewards.scorers.conversation import Conversation
from configs.sampling import RewardsSection
from protocol.errors import UserError

WHERE = "rewards.model"
MAX_TOKENS = 4096
"""Longest conversation, as in ArmoRM's own pipeline; longer answers lose their end."""


def directory_of(section: RewardsSection) -> Path:
    """The checkpoint's folder. Raises `UserError` when it is none; names of the Hub and of assets are paths by now."""
    if not section.model:
        raise UserError(f"rewards.scorer={section.scorer} has no checkpoint", where=WHERE, fix="set rewards.model")
    directory = Path(section.model).expanduser()
    if not (directory / "config.json").is_file():
        raise UserError(f"{directory} holds no config.json", where=WHERE, fix="point it at the folder of a Hugging Face checkpoint")
    return directory


def read_config(directory: Path) -> Any:
    """The checkpoint's configuration. Raises `UserError` when transformers does not know it; remote code is never run."""
    try:
        return AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{directory} has a config.json that transformers refuses: {reason}", where=WHERE) from error


def read_tokenizer(directory: Path) -> Any:
    """The checkpoint's tokenizer. Raises `UserError` when there is none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{directory} has no usable tokenizer: {reason}", where=WHERE) from error
    if not set(tokenizer("words", add_special_tokens=False)["input_ids"]) - {tokenizer.unk_token_id}:
        # transformers makes an empty tokenizer of the right class when the files are missing
        raise UserError(f"{directory} has a tokenizer without words", where=WHERE, fix="fetch the whole checkpoint, with its tokenizer")
    return tokenizer


def read_conversation(section: RewardsSection) -> Conversation:
    """The checkpoint's chats without its network, for servers elsewhere. Raises `UserError`."""
    directory = directory_of(section)
    return Conversation(read_tokenizer(directory), max_tokens_of(read_config(directory)), where=str(directory))


def read_body(loader: Any, directory: Path) -> Any:
    """The network that `loader` (an auto class) reads from `directory`, ready to score. `UserError` for weights that are missing.

    transformers fills missing tensors with random numbers and warns; here that is an error.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        model, report = loader.from_pretrained(directory, dtype=dtype, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{directory} cannot be loaded as {loader.__name__}: {reason}", where=WHERE) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(f"{directory} lacks tensors of {type(model).__name__}: {', '.join(missing[:5])}", where=WHERE)
    return model.eval().requires_grad_(False).to(device)


def read_tensors(directory: Path, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Tensors by their published names, in float32: heads keep every digit, so that rounding makes no ties. Raises `UserError`."""
    index = directory / "model.safetensors.index.json"
    shards: dict[str, str] = json.loads(index.read_text())["weight_map"] if index.is_file() else {}
    tensors: dict[str, torch.Tensor] = {}
    for name in names:
        file = directory / shards.get(name, "model.safetensors")
        if not file.is_file():
            raise UserError(f"{directory} holds no {file.name} for the tensor {name}", where=WHERE, fix="fetch the whole checkpoint")
        with safe_open(file, framework="pt") as opened:
            if name not in opened.keys():  # noqa: SIM118 - a safetensors file is no mapping
                raise UserError(f"{directory} holds no tensor {name}", where=WHERE, fix="check that rewards.scorer fits the checkpoint")
            tensors[name] = opened.get_tensor(name).to(torch.float32)
    return tensors


def right_padded(token_ids: list[list[int]], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask ``[conversation, token]``, padded on the right, so that positions count from the start."""
    longest = max(len(ids) for ids in token_ids)
    padded = torch.tensor([ids + [pad_id] * (longest - len(ids)) for ids in token_ids], device=device)
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in token_ids], device=device)
    return padded, mask


def pad_id_of(tokenizer: Any) -> int:
    """Any valid token id will do, for padding is masked and never read."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0))


def max_tokens_of(config: Any) -> int:
    """Longest conversation that the network and `MAX_TOKENS` allow."""
    return min(int(getattr(config, "max_position_embeddings", MAX_TOKENS)), MAX_TOKENS)


def prepare_process(section: RewardsSection) -> None:
    """Has torch compute with `section.cpu_threads` threads (0: its own choice), and transformers keep its bars and reports to itself."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if section.cpu_threads:
        torch.set_num_threads(section.cpu_threads)
