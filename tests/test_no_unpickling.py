"""Nothing in the packages turns bytes into objects that may run code: found in the syntax, whoever would call it."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "jsonpickle", "joblib", "marshal", "shelve", "pandas"}
"""Whoever imports one wants what it does."""
CALLS = {
    "recv_pyobj", "send_pyobj", "recv_serialized",  # ZeroMQ
    "unsafe_load", "full_load", "unsafe_load_all", "full_load_all",  # YAML
    "broadcast_object_list", "all_gather_object", "gather_object", "scatter_object_list", "recv_object_list", "send_object_list",  # torch
    "read_pickle",
}  # fmt: skip
QUALIFIED = {("torch", "load"), ("yaml", "load"), ("yaml", "load_all"), ("ray", "cloudpickle"), ("torch", "package")}
BUILTINS = {"eval", "exec"}


def offences(source: str) -> Iterator[str]:
    """What in this source may unpickle or run what it reads."""
    names: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=aliases):
                for alias in aliases:
                    names[alias.asname or alias.name] = alias.name
                    if MODULES & set(alias.name.split(".")):
                        yield f"{node.lineno}: import {alias.name}"
            case ast.ImportFrom(module=str(module), names=aliases):
                for alias in aliases:
                    parts = {*module.split("."), alias.name}
                    if parts & (MODULES | CALLS) or (module.split(".")[0], alias.name) in QUALIFIED:
                        yield f"{node.lineno}: from {module} import {alias.name}"
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id=owner), attr=attribute) if (names.get(owner, owner), attribute) in QUALIFIED:
                yield f"{node.lineno}: {owner}.{attribute}"
            case ast.Attribute(attr=attribute) if attribute in CALLS | MODULES:
                yield f"{node.lineno}: .{attribute}"
            case ast.Call(func=ast.Name(id=name)) if name in BUILTINS:
                yield f"{node.lineno}: {name}()"
            case ast.Call(func=ast.Name(id="__import__") | ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(module)), *_]):
                if MODULES & set(module.split(".")):
                    yield f"{node.lineno}: import_module({module!r})"
            case ast.keyword(arg="allow_pickle", value=value) if not (isinstance(value, ast.Constant) and value.value is False):
                yield f"{value.lineno}: allow_pickle"
            case ast.keyword(arg="weights_only", value=ast.Constant(value=False)):
                yield f"{node.value.lineno}: weights_only=False"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_sources_unpickle_nothing(path: Path) -> None:
    assert list(offences(path.read_text(encoding="utf-8"))) == []


def test_all_packages_are_looked_at() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(PACKAGES)
    assert len(SOURCES) > 100


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import cloudpickle as safe",
        "from pickle import loads",
        "from ray import cloudpickle",
        "import ray\nray.cloudpickle.loads(b'')",
        "import torch\ntorch.load('x')",
        "import torch as t\nt.load('x')",
        "from torch import load",
        "socket.recv_pyobj()",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import yaml as y\ny.unsafe_load(text)",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "load(path, weights_only=False)",
        "import torch.distributed as dist\ndist.broadcast_object_list(objects)",
        "eval(text)",
        "import importlib\nimportlib.import_module('pickle')",
    ],
)
def test_each_way_of_unpickling_is_found(source: str) -> None:
    assert list(offences(source))


@pytest.mark.parametrize(
    "source",
    [
        "import yaml\nyaml.safe_load(text)",
        "import json\njson.loads(text)",
        "from safetensors.torch import load_file",
        "np.load('x', allow_pickle=False)",
        "model.eval()",
        "config.load('x')",
    ],
)
def test_what_is_safe_is_left_alone(source: str) -> None:
    assert list(offences(source)) == []


def test_the_linter_says_so_while_one_types() -> None:
    lint = PROJECT["tool"]["ruff"]["lint"]
    assert "S" in lint["select"], "S301, S302 and S506 are among them"
    silenced = {*lint["ignore"], *(rule for rules in lint["per-file-ignores"].values() for rule in rules)}
    assert not silenced & {"S", "S3", "S30", "S301", "S302", "S5", "S506", "TID", "TID251"}
    assert {"pickle", "cloudpickle", "torch.load", "yaml.load"} <= lint["flake8-tidy-imports"]["banned-api"].keys()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_silences_the_linter_about_it(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        assert not ("noqa" in line and any(rule in line for rule in ("S301", "S302", "S506", "TID251")))
