"""The reward server: one scorer behind HTTP."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import uvicorn

from actors.rewards import bearer
from actors.rewards.app import make_app
from actors.rewards.batcher import Batcher
from actors.rewards.items import RewardScore
from actors.rewards.scorers.scorer import Scorer, open_scorer
from configs.sampling import RewardsSection
from protocol import logs
from protocol.errors import UserError
from protocol.metrics import Metrics
from protocol.role import RoleDescription

CAPACITY_BATCHES = 64
"""Bound of the queue, in batches; beyond it requests are told to come back."""
ANYWHERE = {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
GOODBYE_S = 5
"""How long a stopping server waits for answers that are under way."""


class RewardServer:
    """One reward server: uvicorn's thread takes requests, a scorer's thread answers them, `run` watches both."""

    def __init__(
        self,
        section: RewardsSection,
        bind: str,
        port: int,
        run_dir: Path | None = None,
        index: int = 0,
        scorer: Scorer | None = None,
        token: str | None = None,
    ) -> None:
        """Loads the scorer and binds the socket; requests that come before `run` wait in its backlog. With a `token`, only who sends it
        is scored for.

        Raises `UserError` for a checkpoint that does not fit and for an address that cannot be bound.
        """
        self.id = f"reward-{index}"
        if run_dir is not None:
            logs.configure(run_dir, self.id)
        self._log = logs.get_logger("rewards")
        self._section, self._token = section, token
        self._scorer = scorer or open_scorer(section)
        self._metrics = Metrics("reward", self.id)
        self._batcher = Batcher(
            self._scorer,
            batch_items=section.batch_items,
            batch_tokens=section.batch_tokens,
            capacity_items=CAPACITY_BATCHES * section.batch_items,
            patience_s=section.timeout_s,
            on_error=self._scorer_raised,
            on_batch=self._batch_scored,
            on_expired=lambda: self._metrics.inc("rba_reward_errors_total", kind="expired"),
        )
        self._socket = _bound(bind, port)
        self.url = _url(self._socket, socket.gethostname() if bind in ANYWHERE else bind)
        self._listens_at = _url(self._socket, bind)
        self._uvicorn = self._make_uvicorn()
        self._ended = threading.Event()
        self._stop_reason: str | None = None
        self._failure: BaseException | None = None
        self._started_s = time.monotonic()

    def describe(self) -> RoleDescription:
        """Where it listens, as it was told: the supervisor knows by which address others reach this machine."""
        return {
            "role": "reward",
            "id": self.id,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "endpoints": {"rewards": self._listens_at},
            "metrics_url": f"{self._listens_at}/metrics",
        }

    def run(self) -> dict[str, Any]:
        """Serve until stopped, then return `status`.

        Consumes: HTTP requests. Produces: scores. Waits for: `stop`, or the end of either thread.
        Unblocked by: `stop`, or a failure, which is raised here.
        """
        scorer_thread = threading.Thread(target=self._watched, args=(self._batcher.run,), name="scorer", daemon=True)
        http_thread = threading.Thread(target=self._watched, args=(self._serve_http,), name="http", daemon=True)
        scorer_thread.start()
        http_thread.start()
        self._log.info("serving", url=self.url, scorer=self._section.scorer, signature=self._scorer.signature)
        self._ended.wait()
        self._uvicorn.should_exit = True
        http_thread.join()
        self._batcher.close()
        scorer_thread.join(timeout=GOODBYE_S)
        self._log.info("stopped", reason=self._stop_reason or "failed", **self.status())
        if self._failure is not None:
            raise self._failure
        return self.status()

    def status(self) -> dict[str, Any]:
        """Items, errors and batches so far, what waits, and the pace of the scorer while it works."""
        tally = self._batcher.tally
        return {
            "scorer": self._section.scorer,
            "signature": self._scorer.signature,
            "items": tally.items,
            "errors": tally.errors,
            "batches": tally.batches,
            "quiet_s": round(self._batcher.quiet_s, 3),
            "queued_items": self._batcher.waiting_items,
            "busy_s": round(tally.busy_s, 3),
            "items_per_s": tally.items / tally.busy_s if tally.busy_s else 0.0,
            "busy": tally.busy_s / max(1e-9, time.monotonic() - self._started_s),
        }

    def stop(self, reason: str) -> None:
        """Ask `run` to answer what is under way and return."""
        self._stop_reason = reason
        self._ended.set()

    def _watched(self, work: Any) -> None:
        """A thread that ends by itself ends the role; its exception is the role's."""
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again by `run`
            self._failure = self._failure or error
        finally:
            self._ended.set()

    def _serve_http(self) -> None:
        self._uvicorn.run(sockets=[self._socket])

    def _make_uvicorn(self) -> uvicorn.Server:
        app = make_app(self._section.scorer, self._scorer, self._batcher, self._section.timeout_s, self._metrics, self._token)
        return uvicorn.Server(
            uvicorn.Config(
                app,
                lifespan="off",
                access_log=False,
                log_config=None,
                timeout_keep_alive=120,  # longer than the client keeps an idle connection, so that it never meets a closed one
                timeout_graceful_shutdown=GOODBYE_S,
            )
        )

    def _scorer_raised(self, error: Exception) -> None:
        self._log.error("scorer raised", error=f"{type(error).__name__}: {error}", exc_info=error)

    def _batch_scored(self, scores: list[RewardScore], seconds: float) -> None:
        self._metrics.observe("rba_reward_batch_items", len(scores))
        self._metrics.observe("rba_reward_batch_seconds", seconds)
        for kind, count in Counter(score.kind for score in scores).items():
            if kind is None:
                self._metrics.inc("rba_reward_items_total", count)
                self._metrics.succeeded("rba_reward_last_success_timestamp_seconds")
            else:
                self._metrics.inc("rba_reward_errors_total", count, kind=kind)


def serve(section: RewardsSection, bind: str = "127.0.0.1", port: int = 0, *, insecure: bool = False) -> None:
    """Serve in the foreground until SIGTERM or SIGINT, after printing the URL. Raises `UserError` off loopback without a token, unless
    `insecure`.
    """
    token = bearer.read(section.token_file, os.environ)
    if token is None and not insecure and not _is_loopback(bind):
        raise UserError(
            f"{bind} is off the loopback interface, and the server has no token to tell its clients by",
            where="bind",
            fix=f"give --token-file or {bearer.VARIABLE}; or --insecure on a network that you trust",
        )
    logs.configure(None, "reward-0")
    server = RewardServer(section, bind, port, token=token)

    def receive(number: int, _frame: object) -> None:
        name = signal.Signals(number).name
        threading.Thread(target=server.stop, args=(name,), daemon=True).start()  # a handler must not wait for a lock

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, receive)
    print(f"reward server ({section.scorer}) at {server.url}", flush=True)
    server.run()


def _is_loopback(bind: str) -> bool:
    try:
        return ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return bind == "localhost"


def _bound(bind: str, port: int) -> socket.socket:
    """A listening socket. Raises `UserError` when the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((bind, port))
        opened.listen(2048)
    except OSError as error:
        opened.close()
        raise UserError(f"cannot listen on {bind}:{port}: {error.strerror}", where="bind, port", fix="take another port, or 0") from error
    return opened


def _url(opened: socket.socket, host: str) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{opened.getsockname()[1]}"
