"""The keys of the schema as a list: for `rba config schema`, and to name the nearest key when one is mistyped."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel

from configs.schema import RunConfig

NAME = "NAME"
"""Stands for the keys of a mapping of sections, which are names of the user's own."""


class KeyDoc(NamedTuple):
    """One key of the schema, for people."""

    path: str
    """Dotted, such as ``learner.steps``."""
    type: str
    """``section``, ``sections`` (a mapping of them), ``mapping`` (any keys below it) or the type of the value."""
    default: Any
    """None for a section and for a required key."""
    required: bool
    doc: str


def key_docs(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[KeyDoc]:
    """Every key of the schema in its order, each section before its keys; a mapping of sections has one called `NAME`."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        section = _section(field.annotation)
        if section is not None:
            yield KeyDoc(path, "section", None, field.is_required(), field.description or (section.__doc__ or "").strip())
            yield from key_docs(section, f"{path}.")
        elif (each := _section_in_mapping(field.annotation)) is not None:
            yield KeyDoc(path, "sections", {}, field.is_required(), field.description or "")
            yield KeyDoc(f"{path}.{NAME}", "section", None, required=False, doc=(each.__doc__ or "").strip())
            yield from key_docs(each, f"{path}.{NAME}.")
        else:
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            yield KeyDoc(path, _type_name(field.annotation), default, field.is_required(), field.description or "")


def nearest(path: str, known: Collection[str]) -> str | None:
    """The known dotted name that is most like `path`; a right last part in a wrong section counts as near."""
    last = path.rpartition(".")[2]
    for cutoff in (0.8, 0.55):
        if close := difflib.get_close_matches(path, known, n=1, cutoff=cutoff):
            return close[0]
        leaves = {name.rpartition(".")[2]: name for name in reversed(list(known))}
        if close := difflib.get_close_matches(last, leaves, n=1, cutoff=max(cutoff, 0.7)):
            return leaves[close[0]]
    return None


def _section(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _section_in_mapping(annotation: Any) -> type[BaseModel] | None:
    return _section(annotation.__args__[1]) if getattr(annotation, "__origin__", None) is dict else None


def _type_name(annotation: Any) -> str:
    """A short name of a field's type: ``int``, ``float or null``, ``group | single | sft``, ``list of text``, ``mapping``."""
    origin = getattr(annotation, "__origin__", None)
    parts: tuple[Any, ...] = getattr(annotation, "__args__", ())
    if annotation is type(None):
        return "null"
    if hasattr(annotation, "__metadata__"):
        return _type_name(origin)
    if origin is dict:
        return "mapping"
    if origin in {list, tuple}:
        return f"list of {_type_name(parts[0])}"
    if isinstance(annotation, type):
        return "text" if annotation is str else annotation.__name__
    if all(isinstance(part, str | int) for part in parts):
        return " | ".join(str(part) for part in parts)
    return " or ".join(_type_name(part) for part in parts)
