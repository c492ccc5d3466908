"""YAML that people read: in the order in which it was put together, long expressions line by line."""

from __future__ import annotations

from typing import Any

import yaml

HEADER = "# Written by `rba monitoring write`.\n"


class _Dumper(yaml.SafeDumper):
    """With blocks for texts of several lines, and everything written out where it stands."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - as PyYAML calls it
        """Always."""
        return True


def _string(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _string)


def text(content: Any) -> str:
    """`content` as a file."""
    return HEADER + yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=200, allow_unicode=True)
