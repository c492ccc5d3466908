"""Turns the names in a configuration into paths: ``SCHEME:NAME`` of an asset provider, a Hub name, a path, or a data set's URL.

Providers are entry points of the group ``rba.assets``: the scheme is the entry point's name, and the object a function
``provide(name) -> Path`` that makes what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from configs.sampling import RewardsSection
from configs.schema import RunConfig
from configs.synthesis import SynthesisConfig
from configs.teaching import LanguageModelSection
from protocol.dataset.places import exists, is_url
from protocol.errors import UserError

GROUP = "rba.assets"
_SCHEME = re.compile(r"^([a-z][a-z0-9_]*):([A-Za-z0-9_.-]+)$")
_HUB = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")

Progress = Callable[[str], None]
"""Told what is being made, before something slow."""


def resolve(config: RunConfig, progress: Progress = lambda _: None) -> RunConfig:
    """`config` with every name replaced by the absolute path behind it, or the URL; makes or downloads what is missing.

    Raises `UserError` naming the key whose asset does not exist.
    """
    resolved = config.model_copy(deep=True)
    resolved.model.path = str(model_path(config.model.path, "model.path", progress))
    resolved.data.train = str(file_path(config.data.train, "data.train", progress))
    resolved.data.mix = {str(file_path(name, "data.mix", progress)): weight for name, weight in config.data.mix.items()}
    for key in ("test", "validation"):
        name = getattr(config.data, key)
        if name is not None:
            setattr(resolved.data, key, str(file_path(name, f"data.{key}", progress)))
    if config.serves_rewards:
        resolved.rewards = resolve_rewards(config.rewards, progress)
    elif config.uses_rewards and config.rewards.tokenizes and config.rewards.model is not None:
        resolved.rewards.model = str(model_path(config.rewards.model, "rewards.model", progress))
    return resolved


def resolve_rewards(section: RewardsSection, progress: Progress = lambda _: None) -> RewardsSection:
    """`section` with the path of every checkpoint that a scorer loads."""
    resolved = section.model_copy(deep=True)
    for key, name in section.models.items():
        resolved.parts[key.removesuffix(".model")].model = str(model_path(name, key, progress))
    return resolved


def resolve_synthesis(config: SynthesisConfig, progress: Progress = lambda _: None) -> SynthesisConfig:
    """`config` with every model that runs in process, every tokenizer, and what an asset provider has of files, replaced by its path."""
    resolved = config.model_copy(deep=True)
    resolved.filter.kept_out = tuple(str(file_path(name, "filter.kept_out", progress)) for name in config.filter.kept_out)
    if config.speech.bank is not None and provided(config.speech.bank) is not None:
        resolved.speech.bank = str(file_path(config.speech.bank, "speech.bank", progress))
    for key, section in (("teacher", resolved.teacher), ("tags.model", resolved.tags.model)):
        if section is not None:
            _resolve_model(section, key, progress)
    return resolved


def _resolve_model(section: LanguageModelSection, key: str, progress: Progress) -> None:
    if section.url is None:
        section.model = str(model_path(section.model, f"{key}.model", progress))
    elif section.tokenizer is not None:
        section.tokenizer = str(model_path(section.tokenizer, f"{key}.tokenizer", progress))


def provided(name: str) -> tuple[str, str] | None:
    """(scheme, name) when `name` is of an asset provider."""
    match = _SCHEME.match(name)
    return (match[1], match[2]) if match else None


def is_hub_name(name: str) -> bool:
    """True for ``owner/name`` where no such path exists."""
    return bool(_HUB.match(name)) and not Path(name).exists()


def model_path(name: str, key: str, progress: Progress = lambda _: None) -> Path:
    """The checkpoint folder behind `name`, the value of the configuration's `key`."""
    if (asset := provided(name)) is not None:
        return _provide(*asset, key, progress)
    path = Path(name).expanduser()
    if path.is_dir():
        return path.absolute()
    if is_hub_name(name):
        return _download(name, key, progress)
    raise UserError(f"no checkpoint {name}", where=f"{key}: {path.absolute()}", fix="give a checkpoint folder or a Hub name (owner/name)")


def file_path(name: str, key: str, progress: Progress = lambda _: None) -> Path | str:
    """The file behind `name`, the value of the configuration's `key`; a URL, such as ``s3://bucket/train.jsonl``, stays what it is."""
    if is_url(name):
        if not exists(name):
            raise UserError(f"no file {name}", where=key, fix="give the URL of a manifest (JSON lines) of instruction groups")
        return name
    path = _provide(*asset, key, progress) if (asset := provided(name)) is not None else Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"no file {name}", where=f"{key}: {path.absolute()}", fix="give a manifest (JSON lines) of instruction groups")
    return path.absolute()


def _provide(scheme: str, name: str, key: str, progress: Progress) -> Path:
    points = {point.name: point for point in entry_points(group=GROUP)}
    if scheme not in points:
        raise UserError(
            f"no asset provider `{scheme}`",
            where=f"{key}: {scheme}:{name}",
            fix=f"use one of {', '.join(sorted(points)) or 'none installed'}",
        )
    progress(f"preparing {scheme}:{name}")
    try:
        return Path(points[scheme].load()(name)).absolute()
    except (KeyError, ValueError) as error:
        raise UserError(f"no asset {scheme}:{name}: {error}", where=key, fix=f"name one that {scheme} has") from error


def _download(name: str, key: str, progress: Progress) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    progress(f"looking up {name} on the Hugging Face Hub")
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        fix = "check the name and `hf auth login`, or give the folder of a checkpoint that you have"
        raise UserError(f"{name} cannot be had from the Hugging Face Hub: {str(error).splitlines()[0]}", where=key, fix=fix) from error
