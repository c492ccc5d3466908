"""A user's own function as the scorer."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import xxhash

from actors.rewards.items import RewardItem, RewardScore, checked, unscored
from configs.keys import nearest
from configs.scorers import PythonSection
from protocol.errors import UserError

GROUP = "rba.scorers"
"""Entry points of this group are functions as `FunctionScorer` calls them."""
LISTED = 12
"""Most functions of a module that a message names."""


class FunctionScorer:
    """Calls ``function(items, **settings)`` with a batch. It gives one result an item: a number, a `RewardScore`, or None for no score."""

    def __init__(self, section: PythonSection, where: str) -> None:
        """`where` is the section's key. Raises `UserError` when there is no such function."""
        name = section.function or ""
        self._function = find(name, f"{where}.function")
        self._settings = dict(section.settings)
        try:
            with suppress(ValueError):  # of C, without a signature
                inspect.signature(self._function).bind([], **self._settings)
        except TypeError as error:
            fix = f"it is called with the items, and with {where}.settings by name"
            raise UserError(f"{name} cannot be called: {error}", where=f"{where}.function", fix=fix) from None
        settings = json.dumps(self._settings, sort_keys=True, default=str)
        self._signature = f"python|{self._function.__module__}:{_name(self._function)}|source:{_digest(self._function)}|settings:{settings}"

    @property
    def signature(self) -> str:
        """The function, a digest of the file that it stands in, and its settings."""
        return self._signature

    def score(self, items: Sequence[RewardItem]) -> list[RewardScore]:
        """The function's results. Where it raises, it is called with less and less, so that one item harms no other."""
        if not items:
            return []
        try:
            results = list(self._function(list(items), **self._settings))
        except Exception as error:  # noqa: BLE001 - the user's code; reported as the item's outcome
            if len(items) > 1:
                half = len(items) // 2
                return self.score(items[:half]) + self.score(items[half:])
            return [unscored(items[0].id, f"function: {type(error).__name__}: {error}")]
        if len(results) != len(items):
            reason = f"function: {_name(self._function)} returns {len(results)} results for {len(items)} items"
            return [unscored(item.id, reason) for item in items]
        return [_outcome(item, result) for item, result in zip(items, results, strict=True)]


def find(name: str, where: str) -> Callable[..., Any]:
    """The function behind `name`: ``module:function``, or an entry point. Raises `UserError` that says what there is."""
    module, colon, attribute = name.partition(":")
    if not colon:
        points = {point.name: point for point in entry_points(group=GROUP)}
        if name not in points:
            fix = f"write module:function, or one of the entry points {', '.join(sorted(points)) or '(none is installed)'}"
            raise UserError(f"no scorer {name or 'function'} is installed", where=where, fix=fix)
        module, attribute = points[name].module, points[name].attr
    try:
        loaded = importlib.import_module(module)
    except Exception as error:
        fix = "install it on every machine, or name its folder in PYTHONPATH"
        raise UserError(f"the module {module} cannot be imported: {type(error).__name__}: {error}", where=where, fix=fix) from error
    found: Any = loaded
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UserError(f"{module} has no function {attribute}", where=where, fix=_offer(loaded, attribute))
    if inspect.iscoroutinefunction(found):
        raise UserError(f"{name} is asynchronous", where=where, fix="give a function that returns the scores")
    return found  # type: ignore[no-any-return]  # callable, as was just checked


def _offer(module: Any, wanted: str) -> str:
    own = {name: value for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    names = [name for name, value in own.items() if inspect.isroutine(value) and not name.startswith("_")]
    near = nearest(wanted, names)
    listed = ", ".join(names[:LISTED]) + (", …" if len(names) > LISTED else "")
    return (f"did you mean {near}? " if near else "") + f"it has {listed or 'none'}"


def _outcome(item: RewardItem, result: Any) -> RewardScore:
    if isinstance(result, RewardScore):
        return _told(item, result)
    if result is None:
        return unscored(item.id, "no_score: the function gives none")
    if not hasattr(result, "__float__"):
        return unscored(item.id, f"function: {type(result).__name__} is no score")
    try:
        return checked(RewardScore(item.id, float(result)))
    except (TypeError, ValueError, OverflowError) as error:
        return unscored(item.id, f"function: {type(error).__name__}: {error}")


def _told(item: RewardItem, result: RewardScore) -> RewardScore:
    """A dataclass checks nothing: what is told may have any type."""
    if result.id != item.id:
        return unscored(item.id, f"function: the score is that of the item {result.id}")
    try:
        score = None if result.score is None else float(result.score)
        parts = {str(name): float(value) for name, value in result.parts.items()}
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        return unscored(item.id, f"function: {type(error).__name__}: {error}")
    reason = None if result.error is None else str(result.error).encode("utf-8", "replace").decode()
    return checked(RewardScore(item.id, score, parts, reason))


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _digest(function: Callable[..., Any]) -> str:
    try:
        return xxhash.xxh3_64_hexdigest(Path(inspect.getfile(function)).read_bytes())
    except (TypeError, OSError):  # of C, or typed in
        return "none"
