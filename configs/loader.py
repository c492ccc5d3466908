"""Reads a recipe (YAML) and overrides (``learner.steps=10``) into a checked configuration, such as a `RunConfig`.

Every mistake becomes one `UserError` that says what is wrong, in which file and line or in which override, and what to
write instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from configs.keys import NAME, key_docs, nearest
from configs.schema import RunConfig
from configs.section import Section
from configs.serving import ServingConfig
from configs.synthesis import SynthesisConfig
from protocol.errors import UserError

PROVENANCE = "provenance"
"""Top-level key that a run writes into its own ``config.yaml`` (versions, commit, digests); loading ignores it."""
COMMAND_LINE = Path("the command line")
"""Where keys are set that no recipe sets."""


Schema = TypeVar("Schema", bound=Section)


class _Kind(NamedTuple):
    """What differs between recipes of one schema and of another."""

    folder: str
    """Within `configs`: where its recipes lie."""
    described_by: str
    """The command that lists every key."""


_KINDS: dict[type[Section], _Kind] = {
    RunConfig: _Kind(".", "rba config schema"),
    ServingConfig: _Kind(".", "rba config schema"),
    SynthesisConfig: _Kind("synthesis", "rba config schema --synthesis"),
}


@overload
def load(source: str | Path, overrides: Sequence[str] = ()) -> RunConfig: ...
@overload
def load(source: str | Path | None, overrides: Sequence[str] = (), *, schema: type[Schema]) -> Schema: ...
def load(source: str | Path | None, overrides: Sequence[str] = (), *, schema: type[Any] = RunConfig) -> Any:
    """The checked configuration of the recipe `source` with `overrides` (``key.path=value``) on top.

    `source` is a YAML file, or the bare name of a recipe that ships with rba (`recipes`); with None the overrides say everything. Later
    overrides win.
    Raises `UserError` for anything that cannot be read or does not fit `schema`.
    """
    path = COMMAND_LINE if source is None else locate(str(source), schema)
    tree: Any
    tree, lines = (OmegaConf.create({}), {}) if source is None else _parse(_read(path), path)
    tree.pop(PROVENANCE, None)
    _refuse_unknown(tree, schema, lambda key: _at(path, lines, key))
    origins: dict[str, str] = {}
    for override in overrides:
        patch = _parse_override(override)
        said = f"-o {override}"
        origins |= dict.fromkeys(_refuse_unknown(patch, schema, _always(said)), said)
        tree = OmegaConf.merge(tree, patch)
    described = " ".join([str(path), *dict.fromkeys(origins.values())])
    return _validate(_resolve(tree, path), schema, lambda key: _origin(key, origins) or (_at(path, lines, key) if key else described))


def locate(source: str, schema: type[Section] = RunConfig) -> Path:
    """The file behind `source`: a recipe's bare name, or a path. Raises `UserError` when there is none."""
    shipped = recipes(schema)
    if source in shipped:  # before the file system: a folder `quickstart` may well lie beside the user
        return shipped[source]
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"{source} is a folder, not a recipe", where=str(path.absolute()), fix="name the YAML file in it")
    near = nearest(path.stem, shipped)
    hint = f"; did you mean `{near}`?" if near else ""
    raise UserError(
        f"no recipe {source}{hint}", where=str(path.absolute()), fix=f"give a YAML file, or one of the recipes {', '.join(sorted(shipped))}"
    )


def recipes(schema: type[Section] = RunConfig) -> dict[str, Path]:
    """The recipes of that schema that ship with rba, by name."""
    with resources.as_file(resources.files("configs")) as folder:
        return {path.stem: path for path in sorted((folder / _KINDS[schema].folder).glob("*.yaml"))}


def to_yaml(config: Section, provenance: Mapping[str, Any] | None = None) -> str:
    """The whole configuration as YAML that `load` reads back to an equal one; `provenance` goes below it."""
    tree: dict[str, Any] = config.model_dump(mode="json")
    if provenance:
        tree[PROVENANCE] = dict(provenance)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


# --- reading ------------------------------------------------------------------------------------------------


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"the recipe cannot be read: {reason}", where=str(path), fix="give a readable YAML file") from None


def _parse(text: str, path: Path) -> tuple[DictConfig, dict[str, int]]:
    """(keys and values, line of each dotted key). OmegaConf reads ``1e-6`` as a number and refuses a key given twice."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(root, yaml.MappingNode):
            raise UserError("the recipe is no mapping of keys to values", where=str(path), fix="start from `rba config show quickstart`")
        return OmegaConf.create(text), dict(_key_lines(root))  # type: ignore[return-value]  # a mapping, as was just checked
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or _first_line(error)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(f"the recipe is no valid YAML: {problem}", where=where, fix="correct that line") from None


def _parse_override(override: str) -> DictConfig:
    key, equals, _ = override.partition("=")
    if not equals or any(not part.strip() for part in key.split(".")):
        raise UserError(f"`{override}` is no override", where=f"-o {override}", fix="write key.path=value, such as learner.steps=10")
    try:
        return OmegaConf.from_dotlist([override.strip()])
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"the value cannot be read: {_first_line(error)}", where=f"-o {override}", fix="write the value as YAML") from None


def _resolve(tree: Any, path: Path) -> dict[str, Any]:
    """Plain values, with ``${other.key}`` replaced by what it names."""
    try:
        return OmegaConf.to_container(tree, resolve=True)  # type: ignore[return-value]  # a mapping at the top
    except OmegaConfBaseException as error:
        raise UserError(f"the recipe cannot be resolved: {_first_line(error)}", where=str(path), fix="correct the ${…} in it") from None


def _key_lines(node: yaml.MappingNode, prefix: str = "") -> Iterator[tuple[str, int]]:
    """(dotted key, its line counted from 1) of every key."""
    for key, value in node.value:
        path = f"{prefix}{key.value}"
        yield path, key.start_mark.line + 1
        if isinstance(value, yaml.MappingNode):
            yield from _key_lines(value, f"{path}.")


# --- checking -----------------------------------------------------------------------------------------------


def _refuse_unknown(tree: DictConfig, schema: type[Section], where: Callable[[str], str]) -> list[str]:
    """The dotted keys that `tree` sets, all of them known."""
    docs = {doc.path: doc.type for doc in key_docs(schema)}
    keys = dict(_leaves(OmegaConf.to_container(tree, resolve=False), docs))
    for key, documented in keys.items():
        if documented not in docs and not any(kind == "mapping" and documented.startswith(f"{path}.") for path, kind in docs.items()):
            near = nearest(documented, docs)
            if near and NAME in (parts := documented.split(".")):
                near = near.replace(NAME, key.split(".")[parts.index(NAME)])
            fix = f"did you mean `{near}`?" if near else f"`{_KINDS[schema].described_by}` lists every key"
            raise UserError(f"unknown key `{key}`", where=where(key), fix=fix)
    return list(keys)


def _leaves(tree: Any, docs: Mapping[str, str], prefix: str = "", documented: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, the same key as `docs` has it: names of the user's own are `NAME`) of every value."""
    for name, value in tree.items():
        path, doc = f"{prefix}{name}", f"{documented}{NAME if docs.get(documented[:-1]) == 'sections' else name}"
        if isinstance(value, dict) and value and (not prefix or docs.get(doc) in {"section", "sections"}):
            yield from _leaves(value, docs, f"{path}.", f"{doc}.")
        else:
            yield path, doc


def _validate(tree: dict[str, Any], schema: type[Section], where: Callable[[str], str]) -> Any:
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        problems = [_explain(detail, schema) for detail in error.errors(include_url=False)]
    if len(problems) == 1:
        path, what, fix = problems[0]
        raise UserError(what, where=where(path), fix=fix)
    listed = "\n".join(f"  - {what} ({where(path)}){f': {fix}' if fix else ''}" for path, what, fix in problems)
    fix = f"correct each of them; `{_KINDS[schema].described_by}` describes every key"
    raise UserError(f"{len(problems)} keys are wrong:\n{listed}", where=where(""), fix=fix)


def _explain(detail: ErrorDetails, schema: type[Section]) -> tuple[str, str, str]:
    """(dotted path, what is wrong, what to do) of one pydantic error."""
    path = ".".join(str(part) for part in detail["loc"])
    message = detail["msg"]
    if detail["type"] == "value_error":  # one of the schema's own: "what is wrong; what to do"
        what, _, fix = message.removeprefix("Value error, ").partition("; ")
        return path, what, fix or "change one of the two"
    if detail["type"] == "missing":
        doc = next((doc.doc for doc in key_docs(schema) if doc.path == path), "")
        return path, f"`{path}` is missing", f"set it: {doc}" if doc else "set it"
    if detail["type"] == "literal_error" and (near := nearest(str(detail["input"]), re.findall(r"'([^']+)'", message))):
        return path, f"`{path}` is {detail['input']!r}, but must be {message.removeprefix('Input should be ')}", f"did you mean `{near}`?"
    wanted = message.removeprefix("Input should be ").removeprefix("a valid ")
    if detail["type"] in {"model_type", "model_attributes_type"}:
        wanted = "a section with keys of its own"
    fix = f"set {path} to such a value; `{_KINDS[schema].described_by}` describes it"
    return path, f"`{path}` is {detail['input']!r}, but must be {wanted}", fix


# --- where --------------------------------------------------------------------------------------------------


def _at(path: Path, lines: Mapping[str, int], key: str) -> str:
    """``file:line`` of the key, or of the nearest section above it that the file has."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return f"{path}:{lines[key]}" if key else str(path)


def _origin(key: str, origins: Mapping[str, str]) -> str | None:
    while key:
        if key in origins:
            return origins[key]
        key = key.rpartition(".")[0]
    return None


def _always(place: str) -> Callable[[str], str]:
    return lambda _key: place


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
