"""`rba synthesize` as a process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

INTERRUPTIBLE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from ops.cli import main; main()"
"""What runs in the background of a shell ignores Ctrl-C, and so do its children."""
WAIT_S = 60.0


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_teacher_that_hangs_holds_nobody_up(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT_S)
        settings = {
            "directory": str(tmp_path),
            "teacher": {"model": "tiny", "url": f"http://127.0.0.1:{server.getsockname()[1]}/v1", "timeout_s": 3600},
            "instructions": {"count": 4, "source": "seeded_chat"},
        }
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-c", INTERRUPTIBLE, "synthesize", str(recipe)]
        with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE) as process:
            try:
                connection, _ = server.accept()  # and never answer
                with connection:
                    os.killpg(process.pid, sent)
                    _, told = process.communicate(timeout=WAIT_S)
            finally:
                process.kill()
    assert process.returncode == code
    assert b"Traceback" not in told
