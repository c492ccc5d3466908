"""A rollout actor's way to the fetcher of its node.

rollout actor ──FetchRequest──▶ fetcher
              ◀────Fetched─────
"""

from __future__ import annotations

import time
from pathlib import Path

import zmq

from protocol import sockets
from protocol.codec import DIALOGUE_CAP_BYTES, WEIGHTS_CODEC, encode
from protocol.errors import RbaError
from protocol.keyring import ClientKeys
from protocol.messages import PolicyVersion
from protocol.weights.files import DamagedVersionError, open_version
from protocol.weights.messages import Fetched, FetchRequest, NotServed

LOOK_MS = 200
ASK_AGAIN_S = 1.0


class FetchError(RbaError):
    """The node fetcher could not bring the version. `store_answers` is None where nothing is known of the weight store."""

    def __init__(self, reason: str, *, store_answers: bool | None = None) -> None:
        super().__init__(reason)
        self.store_answers = store_answers


class FetcherClient:
    """A rollout actor's end. Blocking, one request at a time; made and used in one thread at a time."""

    def __init__(self, endpoint: str, keys: ClientKeys | None = None) -> None:
        self._context: sockets.Context = zmq.Context()
        self._socket = sockets.dealer(self._context, endpoint, DIALOGUE_CAP_BYTES, keys=keys)

    def fetch(self, version: PolicyVersion, timeout_s: float = 120.0) -> Fetched:
        """Have `version`, or a newer one, in shared memory. Raises `FetchError`."""
        give_up_s = time.monotonic() + timeout_s
        asked_s = float("-inf")
        while time.monotonic() < give_up_s:
            if time.monotonic() - asked_s > ASK_AGAIN_S and sockets.ask(self._socket, encode(FetchRequest(version)), LOOK_MS):
                asked_s = time.monotonic()
            if not self._socket.poll(LOOK_MS):
                continue
            answer, _ = WEIGHTS_CODEC.decode(self._socket.recv_multipart())
            if isinstance(answer, Fetched) and answer.policy_version >= version:
                self._check(answer)
                return answer
            if isinstance(answer, NotServed) and answer.policy_version == version:
                raise FetchError(answer.reason, store_answers=answer.store_answers)
        raise FetchError(f"policy version {version} did not come within {timeout_s:.0f} s")

    @staticmethod
    def _check(answer: Fetched) -> None:
        try:
            with open_version(Path(answer.directory)) as found:
                digest = found.manifest.digest
        except DamagedVersionError as error:  # two newer versions came while the answer was on its way
            raise FetchError(str(error)) from error
        if digest != answer.digest:
            raise FetchError(f"{answer.directory} holds another version than the fetcher says")

    def close(self) -> None:
        """Close the socket."""
        self._context.destroy(linger=0)
