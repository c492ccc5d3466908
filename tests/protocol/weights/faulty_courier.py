"""A courier over gloo whose blocks are small, and that goes wrong in the middle of the version of a certain round.

    python -m tests.protocol.weights.faulty_courier FAULT MARK

FAULT is `none`, `dies`, `freezes` or `lies`; it happens once, to the courier that finds the file MARK and removes it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from actors import courier

BLOCK_BYTES = 16 << 10
FAULTY_BLOCK = 2


class Faulty(courier.TorchGroup):
    fault, mark = sys.argv[1], Path(sys.argv[2])
    blocks = 0

    def broadcast(self, size_bytes: int) -> None:
        self.blocks += 1
        if self.fault != "none" and self.blocks >= FAULTY_BLOCK and self.mark.exists():
            self.mark.unlink()
            if self.fault == "dies":
                os._exit(3)
            if self.fault == "freezes":
                os.kill(os.getpid(), signal.SIGSTOP)
        super().broadcast(size_bytes)
        if self.fault == "lies" and self._sends is False:
            self.block[0] ^= 1


if __name__ == "__main__":
    courier.BLOCK_BYTES = BLOCK_BYTES
    courier.TorchGroup = Faulty  # type: ignore[misc]
    sys.argv[1] = "gloo"
    courier.main()
