"""A speech and transcription server with every fault, and what it says."""

from __future__ import annotations

import io
import struct
import threading
import time
from contextlib import contextmanager

import numpy as np
import soundfile
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool


def tone(seconds=2.0, rate_hz=24_000, hz=300.0, peak=0.4):
    """Something that passes for speech, float64 ``[sample]``."""
    time_s = np.arange(int(seconds * rate_hz)) / rate_hz
    return peak * np.sin(2 * np.pi * hz * time_s)


def encoded(samples, rate_hz=24_000, form="WAV"):
    """A file of 16-bit samples."""
    file = io.BytesIO()
    samples = np.round(samples * 32767).astype(np.int16)
    soundfile.write(file, samples, rate_hz, format=form, subtype="PCM_16")
    return file.getvalue()


WAV, FLAC = encoded(tone()), encoded(tone(), form="FLAC")
STREAMED = WAV[:4] + struct.pack("<I", 0xFFFFFFFF) + WAV[8:40] + struct.pack("<I", 0xFFFFFFFF) + WAV[44:]


def audio(content, media_type="audio/wav"):
    return Response(content, media_type=media_type)


FAULTS = {
    "html": (lambda: Response("<html><body>It works!</body></html>", media_type="text/html"), "no audio"),
    "html as audio": (lambda: audio(b"<!DOCTYPE html><html><body>502 Bad Gateway, the upstream is gone</body></html>"), "no audio"),
    "json": (lambda: Response('{"error": {"message": "CUDA out of memory"}}', media_type="application/json"), "no audio"),
    "json as audio": (lambda: audio(b'{"error": {"message": "CUDA out of memory, try again later and be patient"}}'), "no audio"),
    "empty": (lambda: audio(b""), "empty answer"),
    "silence": (lambda: audio(encoded(np.zeros(48_000))), "silent"),
    "telephone": (lambda: audio(encoded(tone(rate_hz=8000), 8000)), "rate"),
    "half a wav": (lambda: audio(WAV[: len(WAV) // 2]), "half a file"),
    "half a flac": (lambda: audio(FLAC[: len(FLAC) // 2], "audio/flac"), "half a file"),
    "header": (lambda: audio(WAV[:20]), "half a file"),
    "noise": (lambda: audio(bytes(range(256)) * 64), "no audio"),
    "babble": (lambda: audio(encoded(tone(25))), "too slow"),
    "word": (lambda: audio(encoded(tone(0.1))), "too fast"),
    "clipped": (lambda: audio(encoded(np.clip(tone(peak=4), -1, 1))), "clipped"),
    "400": (lambda: Response('{"error": "voice not found"}', 400), "refused"),
}
"""Answers by fault, and what they count as."""


class Servant:
    """What the server does: `script` gives the answer to each request body; all bodies are kept."""

    def __init__(self):
        self.bodies, self.headers, self.lock = [], [], threading.Lock()
        self.script = lambda body: audio(WAV)
        self.hear = lambda: {"text": "hello"}
        self.app = FastAPI()
        self.app.post("/v1/audio/speech")(self.speech)
        self.app.post("/v1/audio/transcriptions")(self.transcriptions)

    async def speech(self, request: Request):
        body = await request.json()
        with self.lock:
            self.bodies.append(body)
            self.headers.append(dict(request.headers))
        return await run_in_threadpool(self.script, body)

    async def transcriptions(self, request: Request):
        self.bodies.append(await request.body())
        return self.hear()


@contextmanager
def serving(app):
    """The URL of `app`, served by a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join()
