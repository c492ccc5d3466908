"""What a reward server does over HTTP: merging requests, and saying no.

    python -m benchmarks.rewards [--json FILE]

The quickstart's reward model, in a process of its own with one thread of computation; client and server share two cores. Merged: 64
requests of one item each are under way at any time, and one request of 64 items; beside them, one request of one item after the other.
Overload: requests of 16 items come at three times the rate that the server was measured to work off, from a clock and not from its
answers. BLEU is scored in one process without HTTP.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
import sacrebleu
import torch
from transformers import AutoModelForSequenceClassification

from actors.rewards.client import RewardClient
from actors.rewards.items import RewardItem
from actors.rewards.scorers.checkpoint import read_conversation
from benchmarks.command import command
from benchmarks.rows import row, table
from configs.loader import load
from configs.sampling import RewardsSection
from ops.assets import resolve
from protocol.dataset import DataSet

RECIPE = Path(__file__).parent.parent / "configs" / "quickstart.yaml"
ITEMS, CONCURRENT, TURNS = 512, 64, 3
GAIN = 3.0
ROUNDINGS = 2.0
"""Scores of either way are rounded, so that they may be apart by twice what one is from the exact score."""
BLEU_GOAL = 5000.0
PATIENCE_S, OVERLOAD, OVERLOAD_S, REQUEST_ITEMS = 1.0, 3.0, 6.0, 16
GOODPUT = 0.9


# --- what is scored -----------------------------------------------------------------------------------------


def conversations(count: int) -> tuple[RewardsSection, list[RewardItem]]:
    """The quickstart's reward model, and instructions with right and wrong answers, no two alike."""
    config = resolve(load(RECIPE))
    section = config.rewards
    groups = DataSet.open(config.data.train).groups
    references = sorted({group.reference for group in groups})
    pairs = sorted({(group.instruction, answer) for group in groups for answer in references[:8]})
    random.Random(0).shuffle(pairs)
    return section, [RewardItem(str(number), *pair) for number, pair in enumerate(pairs[:count])]


def _serve(section: str, pipe: Connection) -> None:
    from actors.rewards.server import RewardServer

    server = RewardServer(RewardsSection.model_validate_json(section), "127.0.0.1", 0)
    pipe.send(server.url)
    server.run()


@contextmanager
def server(section: RewardsSection) -> Iterator[str]:
    """The URL of a server in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(section.model_dump_json(), theirs), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join(10)


# --- merging ------------------------------------------------------------------------------------------------


async def scored(client: RewardClient, chunks: Sequence[Sequence[RewardItem]], workers: int) -> tuple[float, dict[str, float]]:
    """Items a second, `workers` requests under way at any time, and the scores. Raises `RuntimeError` for an item without one."""
    left, scores = iter(chunks), {}

    async def work() -> None:
        for chunk in left:
            for outcome in await client.score(chunk):
                if outcome.score is None:
                    raise RuntimeError(outcome.error)
                scores[outcome.id] = outcome.score

    started_s = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(workers)))
    return len(scores) / (time.perf_counter() - started_s), scores


async def merging(section: RewardsSection, url: str, items: Sequence[RewardItem]) -> list[dict[str, Any]]:
    """One after the other, merged by the server, and merged by the client, in turns."""
    client = RewardClient([url], section)
    singles = [[item] for item in items]
    bulks = [items[start : start + CONCURRENT] for start in range(0, len(items), CONCURRENT)]
    ways: dict[str, tuple[Sequence[Sequence[RewardItem]], int]] = {
        "alone": (singles[:: len(items) // 128], 1),
        "merged": (singles, CONCURRENT),
        "bulk": (bulks, 1),
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    scores: dict[str, dict[str, float]] = {}
    await scored(client, bulks, 1)  # warm
    _, alone = await scored(client, singles, 1)
    for way, (chunks, workers) in itertools.chain.from_iterable(itertools.repeat(list(ways.items()), TURNS)):
        rate, scores[way] = await scored(client, chunks, workers)
        rates[way].append(rate)
    await client.aclose()
    exact = exact_scores(section, items)
    gap = max(abs(each[name] - alone[name]) for each in scores.values() for name in each)
    rounding = max(abs(alone[name] - exact[name]) for name in alone)
    peer, one = "one request of one item after the other", statistics.median(rates["alone"])
    return [
        row(f"{CONCURRENT} requests of one item at once", "items/s", statistics.median(rates["merged"]), peer, one, GAIN),
        row(f"one request of {CONCURRENT} items after the other", "items/s", statistics.median(rates["bulk"]), peer, one, GAIN),
        row("largest difference of a score", "", gap, "rounding: one after the other from float64", rounding, ROUNDINGS),
    ]


def exact_scores(section: RewardsSection, items: Sequence[RewardItem]) -> dict[str, float]:
    """By the same network in float64, one conversation at a time."""
    network = AutoModelForSequenceClassification.from_pretrained(section.model, dtype=torch.float64).eval()
    conversation = read_conversation(section)
    with torch.inference_mode():
        ids = {item.id: conversation.token_ids(item.instruction, item.answer) for item in items}
        return {name: float(network(torch.tensor([list(each)])).logits[0, 0]) for name, each in ids.items()}


# --- overload -----------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What became of requests."""

    answered_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    items: int = 0
    """That got a score."""

    async def ask(self, http: aiohttp.ClientSession, url: str, body: bytes) -> None:
        """One request without retries. Raises `RuntimeError` for an answer that is neither scores nor a refusal."""
        started_s = time.perf_counter()
        async with http.post(f"{url}/v1/rewards", data=body) as response:
            answer = await response.json()
        seconds = time.perf_counter() - started_s
        if response.status == 200:
            self.answered_s.append(seconds)
            self.items += sum(item["score"] is not None for item in answer["items"])
        elif response.status == 429 and "Retry-After" in response.headers:
            self.refused_s.append(seconds)
        else:
            raise RuntimeError(f"status {response.status}: {answer}")


def p99(seconds: Sequence[float]) -> float:
    """0 of none."""
    return statistics.quantiles(seconds, n=100)[98] if len(seconds) > 1 else max(seconds, default=0.0)


async def overload(url: str, items: Sequence[RewardItem]) -> list[dict[str, Any]]:
    """The rate that the server works off, and then three times as much."""
    parts = [items[start : start + REQUEST_ITEMS] for start in range(0, len(items), REQUEST_ITEMS)]
    bodies = itertools.cycle([json.dumps({"items": [asdict(item) for item in part]}).encode() for part in parts])
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        capacity = await _capacity(http, url, bodies)
        seen, period_s = Seen(), REQUEST_ITEMS / (OVERLOAD * capacity)
        started_s = time.perf_counter()
        async with asyncio.TaskGroup() as asking:
            for number in range(round(OVERLOAD_S / period_s)):
                await asyncio.sleep(max(0.0, started_s + number * period_s - time.perf_counter()))
                asking.create_task(seen.ask(http, url, next(bodies)))
            offered = (number + 1) * REQUEST_ITEMS / (time.perf_counter() - started_s)
        rate = seen.items / (time.perf_counter() - started_s)
    bound_s = PATIENCE_S + CONCURRENT / capacity
    share = len(seen.refused_s) / (len(seen.refused_s) + len(seen.answered_s))
    return [
        row(
            f"{offered / capacity:.1f} times the load: p99 of the answers",
            "s",
            p99(seen.answered_s),
            "patience and a batch",
            bound_s,
            1.0,
        ),
        row(f"the same: p99 of the {share:.0%} refusals", "s", p99(seen.refused_s), "patience", PATIENCE_S, 1.0),
        row("the same: items scored", "items/s", rate, "without overload", capacity, GOODPUT),
    ]


async def _capacity(http: aiohttp.ClientSession, url: str, bodies: Iterator[bytes]) -> float:
    """Items a second with as many requests under way as fill two batches."""
    for seconds in (1.0, 3.0):  # the first one is to warm up, and to learn the pace
        seen, until_s = Seen(), time.perf_counter() + seconds

        async def work(seen: Seen = seen, until_s: float = until_s) -> None:
            while time.perf_counter() < until_s:
                await seen.ask(http, url, next(bodies))

        started_s = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(2 * CONCURRENT // REQUEST_ITEMS)))
        rate = seen.items / (time.perf_counter() - started_s)
    return rate


# --- BLEU ---------------------------------------------------------------------------------------------------


def bleu() -> list[dict[str, Any]]:
    """Sentences of 8 to 32 words, a third of them changed, by the scorer in one thread; equal to sacrebleu's own scores."""
    from actors.rewards.scorers.bleu import BleuScorer

    chance, scorer = random.Random(0), BleuScorer()
    words = ["".join(chance.choices("etaoinshrdlu", k=chance.randint(2, 9))) for _ in range(4000)]

    def item(number: int) -> RewardItem:
        reference = chance.choices(words, k=chance.randint(8, 32))
        answer = [chance.choice(words) if chance.random() < 1 / 3 else word for word in reference]
        return RewardItem(str(number), "", " ".join(answer), " ".join(reference))

    items = [item(number) for number in range(4000)]
    gaps, rates = [0.0], []
    for one, score in zip(items[:500], scorer.score(items[:500]), strict=True):
        theirs = sacrebleu.sentence_bleu(one.answer, [one.reference or ""], use_effective_order=True).score / 100
        gaps.append(abs((score.score if score.score is not None else 2.0) - theirs))
    for _ in range(TURNS):
        started_s = time.process_time()
        scorer.score(items)
        rates.append(len(items) / (time.process_time() - started_s))
    if max(gaps):
        raise RuntimeError(f"a score differs from sacrebleu's by {max(gaps)}")
    return [row("BLEU, one core", "sentences/s", statistics.median(rates), "goal", BLEU_GOAL, 1.0)]


# --- all of it ----------------------------------------------------------------------------------------------


def measure() -> list[dict[str, Any]]:
    """Every row."""
    section, items = conversations(ITEMS)
    rows: list[dict[str, Any]] = []

    def add(name: str, made: Callable[[], list[dict[str, Any]]]) -> None:
        rows.extend(made())
        print(f"{name}\n" + "\n".join(table(rows).splitlines()[2:]), file=sys.stderr, flush=True)

    with server(section) as url:
        add("merging", lambda: asyncio.run(merging(section, url, items)))
    with server(section.model_copy(update={"timeout_s": PATIENCE_S})) as url:
        add("overload", lambda: asyncio.run(overload(url, items)))
    add("BLEU", bleu)
    return rows


if __name__ == "__main__":
    command("rewards", __doc__, measure)
