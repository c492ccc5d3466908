from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest

from ops import ports


def test_a_port_is_free_and_not_one_that_the_system_gives_out() -> None:
    found = ports.free()
    with socket.socket() as taken:
        taken.bind(("", found))
    given_out = int(ports.RANGE.read_text().split()[0]) if ports.RANGE.is_file() else ports.USUAL_RANGE[0]
    assert ports.FIRST <= found < given_out


def test_a_port_that_somebody_has_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", ports.free()))
        port = taken.getsockname()[1]
        monkeypatch.setattr(random, "sample", lambda candidates, count: [port] * count)
        with pytest.raises(OSError, match="no port"):
            ports.free()
