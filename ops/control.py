"""The supervisor's control server: status, stop, scale, and the addresses of every process's metrics.

Listens on loopback only. ``/v1/status``, ``/v1/stop`` and ``/v1/scale`` want the token that lies in the run's ``control.json`` (mode
0600); ``/v1/targets`` and ``/metrics`` are for Prometheus, which has no token, and tell nothing but addresses and figures.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Response
from pydantic import BaseModel, Field

from ops.orders import Scale
from ops.rundir import BEAT_S
from protocol.errors import UserError

LOOPBACK = "127.0.0.1"


class ControlServer:
    """Serves from a thread of its own until `close`.

    `status` returns the run's status, `stop` asks for its end (the second time at once), `scale` for another number of
    rollout actors or reward servers, and `metrics` returns the supervisor's own exposition; all are called from the server's threads.
    """

    def __init__(
        self,
        *,
        status: Callable[[], dict[str, Any]],
        stop: Callable[[str], None],
        scale: Callable[[Scale], None],
        metrics: Callable[[], bytes],
        beat: Callable[[], object] = lambda: None,
        ray: Callable[[], list[str]] = list,
        port: int = 0,
    ) -> None:
        """`ray` returns where Ray's own agents serve their metrics.

        `beat` is called every `BEAT_S` for as long as it serves; what goes wrong in it is no matter.
        """
        self.token = secrets.token_urlsafe(24)
        self._socket = _listen(port)
        self.url = f"http://{LOOPBACK}:{self._socket.getsockname()[1]}"
        app = application(status=status, stop=stop, scale=scale, metrics=metrics, ray=ray, token=self.token)

        async def notify() -> None:
            with contextlib.suppress(OSError):
                beat()

        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="error",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=1,
                callback_notify=notify,
                timeout_notify=BEAT_S,
            )
        )
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, name="control", daemon=True)
        self._thread.start()

    def raise_if_failed(self) -> None:
        """Raise `RuntimeError` when the server's thread has ended by itself."""
        if not self._thread.is_alive() and not self._server.should_exit:
            raise RuntimeError("the control server has ended")

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.should_exit = True
        self._thread.join(timeout=3)
        self._socket.close()


class Wanted(BaseModel):
    """The body of ``/v1/scale``."""

    actors: int | None = Field(default=None, ge=1, le=4096)
    rewards: int | None = Field(default=None, ge=1, le=4096)


def application(
    *,
    status: Callable[[], dict[str, Any]],
    stop: Callable[[str], None],
    scale: Callable[[Scale], None],
    metrics: Callable[[], bytes],
    ray: Callable[[], list[str]],
    token: str,
) -> FastAPI:
    """The HTTP interface without a socket."""
    app = FastAPI(title="rba control", openapi_url=None, docs_url=None, redoc_url=None)

    def authorised(authorization: Annotated[str, Header()] = "") -> None:
        if not secrets.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "send the token of the run's control.json as `Authorization: Bearer …`")

    @app.get("/v1/status", dependencies=[Depends(authorised)])
    def get_status() -> dict[str, Any]:
        return status()

    @app.post("/v1/stop", dependencies=[Depends(authorised)])
    def post_stop() -> dict[str, Any]:
        stop("rba stop")
        return {"stopping": True}

    @app.post("/v1/scale", dependencies=[Depends(authorised)])
    def post_scale(wanted: Wanted) -> dict[str, Any]:
        try:
            scale(Scale(wanted.actors, wanted.rewards))
        except UserError as error:
            raise HTTPException(409, str(error)) from error
        return {name: count for name, count in wanted.model_dump().items() if count is not None}

    @app.get("/v1/targets")
    def get_targets() -> list[dict[str, Any]]:
        return targets(status(), ray())

    @app.get("/metrics")
    def get_metrics() -> Response:
        return Response(metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def targets(status: dict[str, Any], ray: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Every process's metrics endpoint, and those of Ray's agents, as Prometheus's ``http_sd`` wants them."""
    listed = [
        {
            "targets": [urlsplit(process["metrics_url"]).netloc],
            "labels": {"run": status["run"], "role": process["role"], "process": process["id"]},
        }
        for process in status["processes"]
        if process["metrics_url"]
    ]
    control = status["endpoints"]["control"]
    if control:
        listed.append(
            {"targets": [urlsplit(control).netloc], "labels": {"run": status["run"], "role": "supervisor", "process": "supervisor-0"}}
        )
    listed += [{"targets": [agent], "labels": {"run": status["run"], "role": "ray", "process": f"ray-{agent}"}} for agent in ray]
    return listed


def _listen(port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((LOOPBACK, port))
    except OSError as error:
        listening.close()
        raise UserError(
            f"the control port is taken: {error.strerror}", where=f"{LOOPBACK}:{port}", fix="set network.control_port=0 for a free one"
        ) from error
    listening.listen(64)  # connections wait here until the thread serves them
    return listening
