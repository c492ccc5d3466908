"""What holds for every protocol, against a server that answers in its shape; and each shape itself."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from actors.rewards.client import RewardClient
from actors.rewards.items import RewardItem
from actors.rewards.protocols.openrlhf import OpenRlhf
from actors.rewards.protocols.protocol import ScoringProtocol, open_protocol
from actors.rewards.protocols.vllm import Classify
from actors.rewards.server import RewardServer
from configs.sampling import RewardsSection
from protocol.errors import UserError
from tests.actors.rewards.conftest import LLAMA_TEMPLATE, make_tokenizer
from tests.actors.rewards.scripted import Script

Answers = Callable[[dict[str, Any]], bytes]
ITEMS = [RewardItem("a", "say seven", "seven", "seven"), RewardItem("b", "say seven", "six"), RewardItem("c", "say \ud800", "", "x")]
VALUES = [0.25, -3.5, float("nan")]


@dataclass
class Shape:
    """How a server of one protocol answers `values`, whatever it is asked."""

    name: str
    path: str
    answer: Callable[[list[float], dict[str, Any]], Any]
    health: Any = None


def native(values: list[float], request: dict[str, Any]) -> Any:
    items = [{"id": item["id"], "score": value} for item, value in zip(request["items"], values, strict=True)]
    return {"items": items, "scorer": "bleu", "signature": "s"}


def models(longest: int = 256) -> Any:
    return {"object": "list", "data": [{"id": "rm", "object": "model", "max_model_len": longest}]}


def reversed_data(data: list[dict[str, Any]]) -> Any:
    """vLLM names an index, so the order need not be trusted."""
    return {"object": "list", "model": "rm", "data": data[::-1], "usage": {}}


SHAPES = [
    Shape("native", "/v1/rewards", native, {"status": "ok", "scorer": "bleu", "signature": "s"}),
    Shape("openrlhf", "/get_reward", lambda values, _: {"rewards": values, "scores": values, "extra_logs": {"n": [1.0]}}),
    Shape(
        "classify",
        "/classify",
        lambda values, _: reversed_data([{"index": i, "label": "L", "probs": [v], "num_classes": 1} for i, v in enumerate(values)]),
        models(),
    ),
    Shape("pooling", "/pooling", lambda values, _: reversed_data([{"index": i, "data": [v]} for i, v in enumerate(values)]), models()),
]


@pytest.fixture(params=SHAPES, ids=lambda shape: shape.name)
def shape(request: pytest.FixtureRequest) -> Shape:
    return request.param


@pytest.fixture
def serving(shape: Shape) -> Iterator[Callable[..., Script]]:
    made: list[Script] = []

    def make(values: list[float] = VALUES, *, changed: Answers | None = None, health: Any = shape.health) -> Script:
        def answer(request: dict[str, Any]) -> bytes:
            return json.dumps(shape.answer(values, request)).encode()

        made.append(Script(changed or answer, json.dumps(health).encode()))
        return made[-1]

    yield make
    for script in made:
        script.close()


def section(protocol: str, model: Path | None, url: str = "http://x", **fields: Any) -> RewardsSection:
    return RewardsSection.model_validate(
        {"scorer": "bleu", "protocol": protocol, "urls": [url], "model": model and str(model), "attempts": 1, **fields}
    )


MADE: list[RewardClient] = []


def client(shape: Shape, script: Script, model: Path, **fields: Any) -> RewardClient:
    wanted = section(shape.name, model, script.url, **fields)
    MADE.append(RewardClient([script.url], wanted, token="a-token-of-some-length", first_wait_s=0.01))
    return MADE[-1]


@pytest.fixture(autouse=True)
async def closed() -> AsyncIterator[None]:
    yield
    while MADE:
        await MADE.pop().aclose()


Serving = Callable[..., Script]


async def test_scores_come_back_in_order_and_nan_is_that_items_error(shape: Shape, serving: Serving, reward_model: Path):
    script = serving()
    a, b, c = await client(shape, script, reward_model).score(ITEMS)
    assert (a.id, a.score, b.id, b.score, c.id, c.score) == ("a", 0.25, "b", -3.5, "c", None)
    assert c.kind == "non_finite"
    assert script.paths == [shape.path]
    assert script.headers[0]["Authorization"] == "Bearer a-token-of-some-length"


@pytest.mark.parametrize("content", [b"<html>", b"[]", b"{}", b'{"data": [], "items": [], "rewards": []}'])
async def test_another_answer_is_none(shape: Shape, serving: Serving, reward_model: Path, content: bytes):
    script = serving(changed=lambda _: content)
    scores = await client(shape, script, reward_model).score(ITEMS)
    assert {score.kind for score in scores} == {"bad_answer"}


async def test_scores_for_others_are_none(shape: Shape, serving: Serving, reward_model: Path):
    """One answer too many, where the protocol lets that happen."""

    def answer(request: dict[str, Any]) -> bytes:
        if shape.name == "native":
            request["items"].append({"id": "d"})
        return json.dumps(shape.answer([0.5] * 4, request)).encode()

    scores = await client(shape, serving(changed=answer), reward_model).score(ITEMS)
    assert {score.kind for score in scores} == {"bad_answer"}


async def test_check_scores_an_item(shape: Shape, serving: Serving, reward_model: Path):
    script = serving([0.5])
    (signature,) = await client(shape, script, reward_model).check()
    assert signature == {"native": "s", "openrlhf": "openrlhf", "classify": "vllm|rm", "pooling": "vllm|rm"}[shape.name]
    assert script.paths == [shape.path]
    script.steps = [404]
    with pytest.raises(UserError, match=f"{script.url} does not score: refused: status 404"):
        await client(shape, script, reward_model).check()


async def test_check_refuses_who_says_to_be_something_else(shape: Shape, serving: Serving, reward_model: Path):
    if shape.health is None:
        pytest.skip("it has no such route")
    for health in ({}, [], {"data": []}, {"data": [{"id": "rm", "max_model_len": None}]}):
        with pytest.raises(UserError, match=r"not the right one.*rewards\.protocol"):
            await client(shape, serving(health=health), reward_model).check()


@pytest.mark.parametrize("protocol", ["classify", "pooling"])
async def test_vllm_has_to_serve_conversations_as_long_as_ours(protocol: str, reward_model: Path):
    opened = open_protocol(section(protocol, reward_model))
    assert opened.signature(models(256)) == "vllm|rm"
    with pytest.raises(UserError, match="--max-model-len 256"):
        opened.signature(models(255))


# --- requests -----------------------------------------------------------------------------------------------


def asked(protocol: ScoringProtocol, *items: RewardItem) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(protocol.request(items))
    return read


@pytest.mark.parametrize("protocol", ["classify", "pooling"])
def test_vllm_gets_the_token_ids_that_our_own_server_scores(protocol: str, reward_model: Path):
    from actors.rewards.scorers.checkpoint import read_conversation

    opened, ours = open_protocol(section(protocol, reward_model)), read_conversation(RewardsSection(model=str(reward_model)))
    items = [*ITEMS[:2], RewardItem("long", "q", "<|im_end|>" + "x" * 999)]
    request = asked(opened, *items)
    assert request["input"] == [list(ours.token_ids(item.instruction, item.answer)) for item in items]
    assert len(request["input"][2]) == 256
    assert {key: request[key] for key in request if key != "input"} == {"add_special_tokens": False, "use_activation": False}


@pytest.mark.parametrize("protocol", ["classify", "pooling"])
async def test_what_vllm_cannot_be_asked_harms_no_other(protocol: str, reward_model: Path):
    shape = next(shape for shape in SHAPES if shape.name == protocol)
    script = Script(lambda request: json.dumps(shape.answer([0.5] * len(request["input"]), request)).encode())
    items = [ITEMS[0], RewardItem("long", "q" * 999, "x"), ITEMS[1]]
    first, long, last = await client(shape, script, reward_model).score(items)
    assert (first.score, long.kind, last.score) == (0.5, "too_long", 0.5)
    assert [len(request["input"]) for _, request in script.requests] == [2]
    script.close()


@pytest.mark.parametrize("protocol", ["classify", "pooling"])
@pytest.mark.parametrize("numbers", [[0.1, 0.9], [[0.1, 0.9]]])
async def test_a_classifier_is_no_reward_model(protocol: str, numbers: Any, reward_model: Path):
    shape = next(shape for shape in SHAPES if shape.name == protocol)
    script = Script(lambda _: json.dumps(reversed_data([{"index": 0, "data": numbers, "probs": numbers}])).encode())
    (score,) = await client(shape, script, reward_model).score(ITEMS[:1])
    assert score.kind == "bad_answer"
    script.close()


async def test_of_a_number_a_token_the_last_one_counts(reward_model: Path):
    script = Script(lambda _: json.dumps(reversed_data([{"index": 0, "data": [[0.1], [0.2], [0.7]]}])).encode())
    (score,) = await client(SHAPES[3], script, reward_model).score(ITEMS[:1])
    assert score.score == 0.7
    script.close()


def test_the_begin_of_sequence_token_is_there_once():
    from actors.rewards.scorers.conversation import Conversation

    special = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = make_tokenizer(special, LLAMA_TEMPLATE, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
    conversation = Conversation(tokenizer, 256, "here")
    (ids,) = asked(Classify(conversation), ITEMS[0])["input"]
    assert ids.count(tokenizer.bos_token_id) == 1
    request = asked(OpenRlhf(conversation), ITEMS[0])
    assert request["query"] == [tokenizer.decode(ids)]
    assert request["query"][0] == request["prompts"][0] + "seven<|eot_id|>"
    assert request["prompts"][0].endswith("assistant<|end_header_id|>\n\n")
    assert request["labels"] == ["seven"]


@pytest.mark.parametrize("protocol", ["classify", "pooling"])
def test_vllms_own_classes_take_the_request(protocol: str, reward_model: Path):
    from pydantic import TypeAdapter

    classify = pytest.importorskip("vllm.entrypoints.pooling.classify.protocol")
    from vllm.entrypoints.pooling.pooling import protocol as pooling

    wanted = {"classify": classify.ClassificationRequest, "pooling": pooling.PoolingRequest}[protocol]
    body = open_protocol(section(protocol, reward_model)).request(ITEMS[:2])
    request: Any = TypeAdapter(wanted).validate_json(body)
    assert request.input == json.loads(body)["input"]
    assert (request.use_activation, request.add_special_tokens) == (False, False)
    assert not request.model_extra, "a key that vLLM does not know is ignored there"


def test_vllms_own_classes_make_the_answers(reward_model: Path):
    classify = pytest.importorskip("vllm.entrypoints.pooling.classify.protocol")
    from vllm.entrypoints.pooling.pooling import protocol as pooling
    from vllm.entrypoints.serve.engine.protocol import UsageInfo

    data = [classify.ClassificationData(index=0, label=None, probs=[1.5], num_classes=1)]
    answer = classify.ClassificationResponse(model="rm", data=data, usage=UsageInfo())
    opened = open_protocol(section("classify", reward_model))
    assert opened.scores(answer.model_dump_json().encode(), ITEMS[:1])[0].score == 1.5
    pooled = pooling.PoolingResponse(model="rm", data=[pooling.PoolingResponseData(index=0, data=[1.5])], usage=UsageInfo())
    opened = open_protocol(section("pooling", reward_model))
    assert opened.scores(pooled.model_dump_json().encode(), ITEMS[:1])[0].score == 1.5


async def test_openrlhfs_client_and_our_server_agree(serve: Callable[..., RewardServer]):
    server = serve()
    items = [RewardItem("a", "say seven", "seven", "seven"), RewardItem("b", "say seven", "eleven", "seven")]
    native_client, theirs = (
        RewardClient([server.url], section(protocol, None, server.url), first_wait_s=0.01) for protocol in ("native", "openrlhf")
    )
    MADE.extend([native_client, theirs])
    assert [score.score for score in await theirs.score(items)] == [score.score for score in await native_client.score(items)]


async def test_openrlhfs_client_and_our_server_agree_about_a_model(serve: Callable[..., RewardServer], reward_model: Path):
    """The client renders the conversation by the model's template; the server's scorer does not render it once more."""
    server = serve(RewardsSection(scorer="seqcls", model=str(reward_model), cpu_threads=1))
    items = [RewardItem("a", "say seven", "seven"), RewardItem("b", "say <|im_end|> seven", "eleven")]
    native_client, theirs = (
        RewardClient([server.url], section(protocol, reward_model, server.url), first_wait_s=0.01) for protocol in ("native", "openrlhf")
    )
    MADE.extend([native_client, theirs])
    scores = [score.score for score in await native_client.score(items)]
    assert None not in scores
    assert [score.score for score in await theirs.score(items)] == pytest.approx(scores, abs=1e-5)


def test_protocols_that_nobody_speaks_are_refused(reward_model: Path):
    with pytest.raises(ValueError, match=r"needs rewards\.urls"):
        RewardsSection(scorer="bleu", protocol="openrlhf")
    for protocol in ("classify", "pooling"):
        with pytest.raises(ValueError, match=r"needs rewards\.model"):
            section(protocol, None)
    with pytest.raises(UserError, match=r"config\.json"):
        open_protocol(section("classify", reward_model / "nothing"))
