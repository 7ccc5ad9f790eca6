"""The server, asked by OpenAI's own client over the loopback, and by clients that misbehave."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import soundfile
import uvicorn
from browser import Browser, needs_chromium
from numpy.typing import NDArray
from openai import (
    APIError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    OpenAI,
    RateLimitError,
)
from typer.testing import CliRunner

from speechprune_ort import AudioError, DeadlineError, OptionError, PruningOptions, SpeechLLM
from speechprune_ort.answer_stream import AnswerStream
from speechprune_ort.audio_options import AudioOptions
from speechprune_ort.cli.app import app
from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.explain import explain
from speechprune_ort.runtime.answering.decoder import Decoder
from speechprune_ort.server import guards, run
from speechprune_ort.server.app import Service, make_app
from speechprune_ort.server.chat import read_chat
from speechprune_ort.server.counter import Counter, Event, Ticket
from speechprune_ort.server.options import ServeOptions
from speechprune_ort.server.request_error import RequestError, request_error_of
from speechprune_ort.server.run import LOCAL, PromptHttp, listen_on

KEY = "a-key-of-the-tests"
MULTIPART = "multipart/form-data; boundary=x"


@pytest.fixture(scope="module")
def model(bundle: Path) -> SpeechLLM:
    return SpeechLLM(bundle, "cpu", threads=1)


@pytest.fixture(scope="module")
def sound(tone: NDArray[np.float32]) -> bytes:
    """A wav file of 5 s."""
    file = io.BytesIO()
    soundfile.write(file, tone[: 5 * 16_000], 16_000, format="WAV")
    return file.getvalue()


class Running:
    """A server in a thread of the tests, on a port of its own."""

    def __init__(self, model: Any, **options: Any) -> None:
        self.service = Service(model, ServeOptions(**{"name": "tiny", **options}))
        self.listener = listen_on("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        config = uvicorn.Config(
            make_app(self.service, LOCAL), http=PromptHttp, log_level="warning", lifespan="on"
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True
        )
        self.thread.start()

    def client(self, key: str = KEY) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def running(model: SpeechLLM) -> Iterator[Running]:
    server = Running(
        model, api_key=KEY, max_body_mb=1.0, audio=AudioOptions(max_seconds=20), max_recordings=2
    )
    yield server
    server.stop()


def question(sound: bytes, text: str = "Who?") -> list[Any]:
    audio = {"data": base64.b64encode(sound).decode(), "format": "wav"}
    parts = [{"type": "text", "text": text}, {"type": "input_audio", "input_audio": audio}]
    return [{"role": "user", "content": parts}]


def about(file: str, text: str = "Who?") -> list[Any]:
    parts = [{"type": "file", "file": {"file_id": file}}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


def get(url: str, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with urlopen(Request(url, headers=named), timeout=20) as response:  # noqa: S310 - our server
        return response.read()


def test_an_answer_is_that_of_the_model(running: Running, model: SpeechLLM, sound: bytes) -> None:
    found = running.client().chat.completions.create(
        model="tiny", messages=question(sound), max_completion_tokens=6, temperature=0,
        extra_body={"speechprune": {"method": "crop", "pruning_rate": 0.5, "budget": 100}},
    )  # fmt: skip
    alone = model.ask(sound, "Who?", max_new_tokens=6, method="crop", pruning_rate=0.5, budget=100)
    choice = found.choices[0]
    assert (choice.message.content, choice.message.role) == (alone.text, "assistant")
    assert choice.finish_reason == "length"
    usage = found.usage
    assert usage is not None
    assert (usage.completion_tokens, usage.prompt_tokens) == (6, alone.prompt_tokens)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.audio_tokens == alone.pruning.kept == 50
    ours = found.to_dict()["speechprune"]
    assert ours["method"] == "crop"  # type: ignore[index, call-overload]
    assert len(ours["spans"]) == 1  # type: ignore[index, call-overload, arg-type]


def test_repetitions_are_as_unlikely_as_a_request_says(
    running: Running, model: SpeechLLM, sound: bytes
) -> None:
    given: dict[str, Any] = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2}
    found = running.client().chat.completions.create(
        model="tiny", messages=question(sound), max_tokens=24, extra_body=given
    )
    plain, alone = (
        model.ask(sound, "Who?", max_new_tokens=24, **options) for options in ({}, given)
    )
    assert found.choices[0].message.content == alone.text != plain.text
    pairs = list(zip(alone.token_ids, alone.token_ids[1:], strict=False))
    assert len(pairs) == len(set(pairs)) > 0
    with pytest.raises(APIStatusError, match="no_repeat_ngram_size must be"):
        running.client().chat.completions.create(
            model="tiny", messages=question(sound), extra_body={"no_repeat_ngram_size": -1}
        )


def test_an_answer_comes_in_pieces(running: Running, sound: bytes) -> None:
    client = running.client()
    whole = client.chat.completions.create(
        model="tiny", messages=question(sound), max_tokens=12
    ).choices[0]
    with client.chat.completions.create(
        model="tiny", messages=question(sound), max_tokens=12, stream=True,
        stream_options={"include_usage": True},
    ) as stream:  # fmt: skip
        chunks = list(stream)
    pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert len(pieces) > 3, "it came piece by piece"
    assert "".join(pieces) == whole.message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.finish_reason
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12


@pytest.mark.parametrize("uploaded", [False, True])
def test_several_answers_to_one_question(
    running: Running, model: SpeechLLM, sound: bytes, uploaded: bool
) -> None:
    client, made = running.client(), None
    messages = question(sound)
    if uploaded:
        made = client.files.create(file=("a.wav", sound), purpose="user_data")
        messages = about(made.id)
    given: dict[str, Any] = {
        "model": "tiny", "messages": messages, "max_tokens": 8, "temperature": 1.0, "seed": 3,
    }  # fmt: skip
    whole = client.chat.completions.create(n=3, **given)
    alone = model.listen(sound).sample("Who?", 3, max_new_tokens=8, temperature=1.0, seed=3)
    texts = [answer.text for answer in alone]
    assert [choice.message.content for choice in whole.choices] == texts
    assert len(set(texts)) == 3
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert whole.usage is not None
    assert whole.usage.completion_tokens == sum(len(answer.token_ids) for answer in alone)
    assert whole.usage.prompt_tokens == alone[0].prompt_tokens
    assert whole.to_dict()["speechprune"]["seeds"] == [3, 4, 5]  # type: ignore[index, call-overload]
    pieces: dict[int, str] = {}
    reasons: dict[int, str] = {}
    order = []
    for chunk in client.chat.completions.create(n=3, stream=True, **given):
        for choice in chunk.choices:
            if choice.delta.content:
                order.append(choice.index)
                pieces[choice.index] = pieces.get(choice.index, "") + choice.delta.content
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert [pieces[number] for number in range(3)] == texts
    assert reasons == {n: choice.finish_reason for n, choice in enumerate(whole.choices)}
    assert sorted(order) != order, "pieces of all come in turns"
    if made is not None:
        client.files.delete(made.id)


def test_a_recording_is_heard_once_for_many_questions(
    running: Running, model: SpeechLLM, sound: bytes
) -> None:
    client = running.client()
    file = client.files.create(file=("meeting.wav", sound), purpose="user_data")
    assert (file.filename, file.bytes, file.status) == ("meeting.wav", len(sound), "processed")
    assert [f.id for f in client.files.list()] == [file.id]
    heard = metric(running, "speechprune_audio_seconds_total")
    for text in ("Who?", "Why?", "Where?"):
        found = client.chat.completions.create(
            model="tiny", messages=about(file.id, text), max_tokens=5
        )
        assert found.choices[0].message.content == model.ask(sound, text, max_new_tokens=5).text
    assert metric(running, "speechprune_audio_seconds_total") == heard, "nothing is heard again"
    other = client.files.create(file=("b.wav", sound), purpose="user_data")
    with pytest.raises(APIStatusError, match="The limit is 2 recordings") as raised:
        client.files.create(file=("c.wav", sound), purpose="user_data")
    assert raised.value.status_code == 409
    assert client.files.retrieve(file.id).id == file.id
    for name in (file.id, other.id):
        assert client.files.delete(name).deleted
    with pytest.raises(NotFoundError, match="no recording"):
        client.chat.completions.create(model="tiny", messages=about(file.id))
    assert list(client.files.list()) == []


def test_a_prompt_has_what_the_template_allows(
    running: Running, model: SpeechLLM, sound: bytes, tone: NDArray[np.float32]
) -> None:
    client = running.client()
    file = io.BytesIO()
    soundfile.write(file, tone[7 * 16_000 : 9 * 16_000], 16_000, format="WAV")
    second = file.getvalue()
    upload = client.files.create(file=("second.wav", second), purpose="user_data")
    (asked,) = question(sound)
    asked["content"].append({"type": "file", "file": {"file_id": upload.id}})
    both = model.listen(sound).beside(model.listen(second))
    given: dict[str, Any] = {"model": "tiny", "max_tokens": 6}
    found = client.chat.completions.create(messages=[asked], **given)
    expected = both.ask("Who?", max_new_tokens=6)
    assert found.choices[0].message.content == expected.text
    assert found.to_dict()["speechprune"]["seconds"] == 7.0  # type: ignore[index, call-overload]
    worded = both.worded(system="Answer in a word.", text_first=True)
    expected = worded.ask("Who?", max_new_tokens=6)
    for role in ("system", "developer"):
        ahead = {"role": role, "content": "Answer in a word."}
        found = client.chat.completions.create(
            messages=[ahead, asked],  # type: ignore[list-item]
            extra_body={"speechprune": {"text_first": True}},
            **given,
        )
        assert found.choices[0].message.content == expected.text
        assert found.usage is not None
        assert found.usage.prompt_tokens == expected.prompt_tokens
    client.files.delete(upload.id)
    heard = metric(running, "speechprune_audio_seconds_total")
    (many,) = question(second)
    many["content"] += [many["content"][1]] * 8
    with pytest.raises(BadRequestError, match="8 recordings at most, not 9"):
        client.chat.completions.create(messages=[many], **given)
    for turns in ([ahead, ahead, asked], [asked, asked], [{**asked, "role": "system"}, asked]):
        with pytest.raises(BadRequestError, match="at most one system message"):
            client.chat.completions.create(messages=turns, **given)
    assert metric(running, "speechprune_audio_seconds_total") == heard, "refused before hearing"


def metric(running: Running, name: str) -> float:
    text = get(f"{running.url}/metrics", authorization=f"Bearer {KEY}").decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found is not None, text
    return float(found[1])


def test_the_server_tells_of_itself(running: Running) -> None:
    assert json.loads(get(f"{running.url}/health"))["status"] == "ok", "without a key"
    (listed,) = running.client().models.list()
    assert listed.id == "tiny"
    assert running.client().models.retrieve("tiny").id == "tiny"
    with pytest.raises(NotFoundError):
        running.client().models.retrieve("gpt-4o")
    assert metric(running, "speechprune_waiting") == 0
    name = 'speechprune_requests_total{route="/v1/models",status="200"}'
    assert metric(running, name) >= 2


@pytest.mark.parametrize("key", ["wrong", "a-key-of-the-test", "a-key-of-the-testsx"])
def test_a_wrong_key_is_refused_everywhere(running: Running, key: str, sound: bytes) -> None:
    client = running.client(key)
    with pytest.raises(AuthenticationError, match="API key is missing or wrong"):
        client.chat.completions.create(model="tiny", messages=question(sound))
    with pytest.raises(AuthenticationError):
        client.files.list()
    with pytest.raises(HTTPError, match="401"):
        get(f"{running.url}/metrics")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model": "gpt-4o"}, "no model 'gpt-4o' here: ask for 'tiny'"),
    ({"messages": []}, "answers one question about what it hears"),
    ({"messages": [{"role": "user", "content": "Who?"}]}, "answers one question about what"),
    ({"messages": [{"role": "system", "content": "Be kind."}]}, "answers one question"),
    (
        {"extra_body": {"speechprune": {"text_first": 1}}},
        "speechprune.text_first takes true or false, not 1",
    ),
    ({"extra_body": {"speechprune": {"language": "en"}}}, "no place for a language: leave it"),
    ({"extra_body": {"speechprune": {"language": 3}}}, "speechprune.language must be text"),
    ({"extra_body": {"speechprune": {"language": " "}}}, "speechprune.language is empty"),
    ({"messages": "Who?"}, "Expected `array`, got `str` - at `\\$.messages`"),
    ({"max_tokens": 0}, " max_tokens must be a whole number of at least 1, not 0"),
    ({"max_tokens": 10**30}, "512 tokens an answer, not a huge int"),
    ({"seed": 10**19}, "seed must be at most 9223372036854775807"),
    (
        {"extra_body": {"repetition_penalty": 1e308}},
        "repetition_penalty must be from 0.001",
    ),
    ({"stop": ""}, "stop has an empty text: leave it out"),
    ({"stop": ["a", ""]}, "stop has an empty text: leave it out"),
    ({"stop": ["a"] * 17}, "stop has 17 texts: give at most 16"),
    ({"max_tokens": 513}, "512 tokens an answer, not 513"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "differ"),
    ({"temperature": -1}, "temperature"),
    ({"n": 9}, "gives 1 to 8 answers to a question, not 9"),
    ({"n": 0}, "gives 1 to 8 answers"),
    ({"n": 1.5}, "Expected `int | null`"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools is not supported"),
    ({"response_format": {"type": "json_object"}}, "response_format is not supported"),
    ({"extra_body": {"best": 1}}, "unknown field `best`"),
    ({"extra_body": {"speechprune": {"pruning_rate": 1}}}, "speechprune: pruning_rate must be"),
    (
        {"extra_body": {"speechprune": {"pruning_rate": "auto", "memory_target_mb": 1e308}}},
        "speechprune: memory_target_mb must be positive and at most",
    ),
    ({"extra_body": {"speechprune": {"latency_target": 1}}}, "needs pruning_rate .*auto.*: give"),
    (
        {"extra_body": {"speechprune": {"method": "speechprune", "single_head": 1}}},
        "single_head must be true or false",
    ),
    ({"extra_body": {"speechprune": {"method": "sa-map"}}}, "exported with --encoder-attention"),
    ({"extra_body": {"speechprune": {"method": "fastv"}}}, "exported with --cut-after"),
    ({"extra_body": {"speechprune": {"rate": 1}}}, "speechprune has no option 'rate'"),
    ({"extra_body": {"speechprune": {"method": "best"}}}, "best"),
    ({"extra_body": {"speechprune": {"method": ["a"]}}}, "method"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_cannot_be_done_is_one_sentence(
    running: Running, sound: bytes, changes: dict[str, Any], message: str
) -> None:
    given = {"model": "tiny", "messages": question(sound), "max_tokens": 4, **changes}
    if "max_completion_tokens" in changes:
        given["max_tokens"] = 3
    with pytest.raises((BadRequestError, NotFoundError), match=message) as raised:
        running.client().chat.completions.create(**given)
    body = raised.value.body
    assert isinstance(body, dict)
    assert body["type"] == "invalid_request_error"
    assert body["message"].endswith(".")


def test_a_recording_that_is_none_is_refused(running: Running, sound: bytes) -> None:
    client = running.client()
    for content, message in (
        (b"these are notes" * 99, "The file object|cannot|not"),
        (sound[:60], "short|no sound|empty|too"),
    ):
        with pytest.raises(BadRequestError, match=message):
            client.chat.completions.create(model="tiny", messages=question(content))
        with pytest.raises(BadRequestError, match=message):
            client.files.create(file=("a.wav", content), purpose="user_data")
    broken = question(sound)
    broken[0]["content"][1]["input_audio"]["data"] = "*" * 8
    with pytest.raises(BadRequestError, match="not base64"):
        client.chat.completions.create(model="tiny", messages=broken)
    with pytest.raises(BadRequestError, match="multipart form"):
        client.post("/files", body={}, cast_to=object)


def test_what_the_model_says_is_put_in_words_of_a_request(model: SpeechLLM) -> None:
    wave = np.sin(np.arange(16_000, dtype=np.float32) / 9)
    refused = [
        (wave, AudioOptions(max_seconds=0.5)), (wave, AudioOptions(max_decoded_mb=0.01)),
        (np.stack([wave] * 3, 1), AudioOptions(max_channels=2)), (0 * wave, AudioOptions()),
        (np.stack([wave, -wave], 1), AudioOptions()),
    ]  # fmt: skip
    for samples, options in refused:
        with pytest.raises(AudioError) as raised:
            model.listen((samples, 16_000), audio_options=options)
        message = str(request_error_of(raised.value))
        assert message != str(raised.value)
        assert not re.search("--|_|=", message)


def test_an_upload_without_attention_is_not_asked_for_it(
    model: SpeechLLM, sound: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Manifest, "encoder_attention", True)
    service = Service(model, ServeOptions("tiny"))
    upload = service.shelf.put(model.listen(sound), "a.wav", len(sound), "user_data")
    body = {
        "model": "tiny", "messages": about(upload.id), "speechprune": {"method": "sa-map"},
    }  # fmt: skip
    with pytest.raises(RequestError, match="not kept of an uploaded recording: send it as"):
        service._question(read_chat(json.dumps(body).encode(), service.options))
    service.counter.close()


def test_a_method_that_the_bundle_has_no_graph_for_is_not_served(model: SpeechLLM) -> None:
    for method in ("sa-map", "fastv"):
        with pytest.raises(OptionError, match=f"{method} needs a bundle that was exported with"):
            Service(model, ServeOptions("tiny", PruningOptions(method)))


def form(*parts: tuple[str, bytes]) -> bytes:
    begun = (f'--x\r\nContent-Disposition: form-data; name="{n}"'.encode() for n, _ in parts)
    told = (
        head + (b'; filename="a.wav"' if name == "file" else b"") + b"\r\n\r\n" + content + b"\r\n"
        for head, (name, content) in zip(begun, parts, strict=True)
    )
    return b"".join(told) + b"--x--\r\n"


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        ("multipart/form-data", b"", "Missing boundary in multipart): send the recording"),
        ("multipart/form-data; boundary=x", b"?", "Invalid multipart data): send the recording"),
        (
            "multipart/form-data; boundary=x; charset=undefined",
            form(("purpose", b"a")),
            "undefined",
        ),
        ("multipart/form-data; boundary=x", form(("file", b"a"), ("file", b"a")), "Too many files"),
        ("multipart/form-data; boundary=x", form(("file", b"a"), ("expires", b"1")), "'expires'"),
        ("multipart/form-data; boundary=x", form(*[("purpose", b"a")] * 2), "each once"),
        ("application/x-www-form-urlencoded", b"file=%ff", "file=@a.wav"),
    ],
)
def test_a_form_is_read_whole_or_refused(
    running: Running, kind: str, body: bytes, message: str
) -> None:
    headers = {"Content-Type": kind, "Authorization": f"Bearer {KEY}"}
    asked = Request(f"{running.url}/v1/files", body, headers)  # noqa: S310 - our server
    with pytest.raises(HTTPError, match="400") as raised, urlopen(asked, timeout=20):  # noqa: S310
        pass
    told = json.loads(raised.value.read())["error"]["message"]
    assert message in told
    assert told.endswith(".")


def test_limits_of_size_and_length_hold(running: Running, tone: NDArray[np.float32]) -> None:
    client = running.client()
    large = b"\0" * 1_100_000
    with pytest.raises(APIStatusError, match="larger than 1 MB") as raised:
        client.files.create(file=("a.wav", large), purpose="user_data")
    assert raised.value.status_code == 413
    file = io.BytesIO()
    soundfile.write(file, tone[: 21 * 16_000], 16_000, format="FLAC")
    with pytest.raises(BadRequestError, match=r"20 seconds|max_seconds"):
        client.files.create(file=("a.flac", file.getvalue()), purpose="user_data")


@pytest.mark.parametrize("begin", [b"", b"POST /v1/chat/completions HTTP/1.1\r\n"])
def test_who_asks_nothing_is_sent_away(
    begin: bytes, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SILENT_SECONDS", 1.0)
    begun = time.monotonic()
    with socket.create_connection(running.listener.getsockname(), 30) as client:
        client.sendall(begin)
        client.settimeout(0.1)
        closed = False
        while not closed and time.monotonic() < begun + 20:
            try:
                if begin:
                    client.sendall(b"X-Slow: 1\r\n")
                closed = client.recv(1) == b""
            except TimeoutError:
                pass
            except ConnectionError:
                closed = True
    assert closed
    assert time.monotonic() - begun > 0.9


def test_requests_behind_each_other_are_all_answered(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SILENT_SECONDS", 1.0)
    head = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    last = b"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2000000\r\n\r\n"
    with socket.create_connection(running.listener.getsockname(), 30) as client:
        client.sendall((head + b"\r\n") * 2 + last + bytes(1000))
        found = b"".join(iter(lambda: client.recv(4096), b""))  # until it is closed
    assert re.findall(rb"HTTP/1.1 (\d+)", found) == [b"200", b"200", b"401"]


@pytest.mark.parametrize(
    "begin", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\0\1\n\n"]
)
def test_what_is_no_http_is_closed_without_a_traceback(
    begin: bytes, running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection(running.listener.getsockname(), 30) as client:
        client.sendall(begin)
        found = b"".join(iter(lambda: client.recv(4096), b""))
    assert found.startswith(b"HTTP/1.1 400")
    assert not [record for record in caplog.records if record.exc_info]


def test_a_body_without_a_length_is_counted_as_it_comes(running: Running) -> None:
    port = running.listener.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
            "Transfer-Encoding: chunked\r\n\r\n"
        )
        connection.sendall(head.encode())
        try:
            for _ in range(12):
                connection.sendall(b"186a0\r\n" + b" " * 100_000 + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all of it was sent
        assert b" 413 " in connection.recv(64)


def test_pages_of_other_sites_may_not_ask(running: Running) -> None:
    assert get(f"{running.url}/health", origin=running.url)
    for headers in (
        {"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://["},
        {"origin": "["}, {"origin": "http://127.0.0.1:99999999"}, {"origin": "http://"},
    ):  # fmt: skip
        with pytest.raises(HTTPError, match="403"):
            get(f"{running.url}/health", **headers)
    # A name of the attacker's that leads to this machine.
    with pytest.raises(HTTPError, match="400"):
        get(f"{running.url}/health", host="evil.example", origin="http://evil.example")


def answered(app: Any, *headers: tuple[bytes, bytes], path: str = "/nothing") -> int:
    """The status that an application answers a request with, whatever its headers are."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "headers": list(headers), "server": ("127.0.0.1", 80), "client": None,
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("status", "header"),
    [
        (404, (b"host", b"[")), (404, (b"host", b"a:b:c")), (403, (b"origin", b"http://[")),
        (403, (b"origin", b"\xff")), (413, (b"content-length", b"\xb2")),
        (413, (b"content-length", b"9" * 5000)), (413, (b"content-length", b"-1")),
        (404, (b"content-length", b"0" * 5000)), (404, (b"content-length", b"200000000")),
        (413, (b"content-length", b"200000001")), (404, (b"authorization", b"\xff")),
    ],
)  # fmt: skip
def test_no_header_makes_the_server_fail(
    model: SpeechLLM, status: int, header: tuple[bytes, bytes]
) -> None:
    service = Service(model, ServeOptions("tiny"))
    try:
        assert answered(make_app(service), header) == status
    finally:
        service.counter.close()


def test_another_site_may_ask_where_it_is_named(model: SpeechLLM) -> None:
    server = Running(model, origins=("https://good.example",))
    try:
        request = Request(f"{server.url}/health", headers={"Origin": "https://good.example"})  # noqa: S310
        with urlopen(request, timeout=20) as response:  # noqa: S310 - our server
            assert response.headers["access-control-allow-origin"] == "https://good.example"
        with pytest.raises(HTTPError, match="403"):
            get(f"{server.url}/health", origin="https://evil.example")
    finally:
        server.stop()


class Slow:
    """A model whose answers wait until they are let go."""

    def __init__(self, model: SpeechLLM) -> None:
        self._model, self.go, self.begun = model, threading.Event(), threading.Semaphore(0)
        self.manifest = model.manifest
        self.scheduler = SimpleNamespace(rows=1)  # one is worked on, and the others wait

    def stream(self, *arguments: Any, cancel: Any, **options: Any) -> Any:
        self.begun.release()
        while not self.go.wait(0.01):
            cancel.check()
        return self._model.stream(*arguments, cancel=cancel, **options)


def test_answers_that_are_wanted_at_once_are_decoded_together(
    model: SpeechLLM, sound: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Running(model, queue=8)
    client = server.client()

    def ask(text: str) -> str:
        found = client.chat.completions.create(
            model="tiny", messages=question(sound, text), max_tokens=24
        )
        return str(found.choices[0].message.content)

    texts = [f"What was said about {thing}?" for thing in ("money", "time", "rain", "us")]
    try:
        alone = [ask(text) for text in texts]
        steps, sizes = Decoder.steps, []

        def counted(self: Decoder, tokens: Any) -> Any:
            sizes.append(len(tokens))
            time.sleep(0.05)  # the others' recordings are heard meanwhile
            return steps(self, tokens)

        monkeypatch.setattr(Decoder, "steps", counted)
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(ask, texts)) == alone
        assert max(sizes) >= 2
    finally:
        server.stop()


def test_a_full_line_is_told_to_come_back(model: SpeechLLM, sound: bytes) -> None:
    slow = Slow(model)
    server = Running(slow, queue=2)
    client = server.client()

    def ask(_: int) -> str:
        found = client.chat.completions.create(model="tiny", messages=question(sound), max_tokens=3)
        return str(found.choices[0].message.content)

    try:
        with ThreadPoolExecutor(3) as pool:
            answers = [pool.submit(ask, n) for n in range(3)]
            assert slow.begun.acquire(timeout=20)
            wait_for(lambda: server.service.counter.waiting == 2)
            with pytest.raises(RateLimitError, match="ask again later") as raised:
                ask(3)
            assert raised.value.response.headers["retry-after"] == "2"
            slow.go.set()
            assert len({answer.result(60) for answer in answers}) == 1, "none is lost"
    finally:
        slow.go.set()
        server.stop()


def test_who_leaves_gives_up_the_place(model: SpeechLLM, sound: bytes) -> None:
    slow = Slow(model)
    server = Running(slow, queue=2)
    try:
        both = [asked(server, sound) for _ in range(2)]
        wait_for(lambda: (server.service.counter.working, server.service.counter.waiting) == (1, 1))
        for connection in both:
            connection.close()
        wait_for(lambda: (server.service.counter.working, server.service.counter.waiting) == (0, 0))
    finally:
        server.stop()


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_in_the_middle_ends_the_answer(
    model: SpeechLLM, sound: bytes, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Decoder.steps

    def slowly(self: Decoder, tokens: Any) -> Any:
        time.sleep(0.05)
        return steps(self, tokens)

    monkeypatch.setattr(Decoder, "steps", slowly)
    server = Running(model, max_new_tokens=6000)
    try:
        connection = asked(server, sound, max_tokens=6000, stream=stream)
        wait_for(lambda: server.service.counter.working == 1)
        wait_for(lambda: metric(server, "speechprune_first_token_seconds_count") == 1)
        connection.close()
        wait_for(lambda: server.service.counter.working == 0, 5)
        assert metric(server, "speechprune_answer_tokens_total") == 0, "it was not answered"
    finally:
        server.stop()


def test_who_does_not_read_is_sent_away(
    model: SpeechLLM, sound: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "UNREAD_SECONDS", 0.5)
    server = Running(model, max_new_tokens=6000)
    cut: list[object] = []
    lost = PromptHttp.connection_lost

    def seen(self: PromptHttp, exc: Exception | None) -> None:
        cut.append(self.cycle is not None and not self.cycle.response_complete)
        lost(self, exc)

    monkeypatch.setattr(PromptHttp, "connection_lost", seen)
    # A stream that needs more room than the system has for it.
    monkeypatch.setattr("speechprune_ort.server.app._sse", lambda _: "data: " + "x" * 1_000_000)
    try:
        connection = asked(server, sound, max_tokens=200, stream=True)
        wait_for(lambda: True in cut)  # beside what other tests left open
        connection.close()
    finally:
        server.stop()


def test_a_body_that_drips_is_refused(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "PATIENCE", 0.5)
    with begun(running, 10_000) as connection:
        connection.settimeout(0.1)
        found = b""
        for _ in range(200):
            connection.sendall(b" ")
            with suppress(TimeoutError):
                found += connection.recv(4096)
            if found:  # head and body may come apart
                connection.settimeout(30)
                while not found.endswith(b"}"):
                    found += connection.recv(4096)
                break
    assert b" 408 " in found
    assert b"more slowly than 1000 bytes a second" in found


def test_bodies_have_a_bound_together(running: Running) -> None:
    halves = [begun(running, 900_000) for _ in range(5)]
    try:
        for connection in halves[:4]:
            connection.sendall(b" " * 899_000)
        time.sleep(0.5)  # they are read
        halves[4].sendall(b" " * 899_000)
        found = halves[4].recv(4096)
        assert b" 429 " in found
        assert b"retry-after: 2" in found
    finally:
        for connection in halves:
            connection.close()
    wait_for(lambda: not busy(running))


def busy(running: Running) -> bool:
    """Whether bodies of others are in the way of one of the largest size."""
    with begun(running, 1_000_000) as connection:
        connection.sendall(b" " * 999_999 + b"{")
        return b" 429 " in connection.recv(4096)


def begun(running: Running, length: int) -> socket.socket:
    """A request whose body is still to be sent."""
    connection = socket.create_connection(running.listener.getsockname(), 30)
    connection.sendall(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n".encode()
    )
    return connection


def asked(running: Running, sound: bytes, **options: Any) -> socket.socket:
    """A question that was sent, and whose answer is not read."""
    body = json.dumps({"model": "tiny", "messages": question(sound), **options}).encode()
    connection = begun(running, len(body))
    connection.sendall(body)
    return connection


def wait_for(condition: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


def test_a_request_has_its_time(model: SpeechLLM, sound: bytes) -> None:
    slow = Slow(model)
    server = Running(slow, timeout=1.0)
    client = server.client()
    try:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(
                client.chat.completions.create, model="tiny", messages=question(sound), max_tokens=2
            )
            assert slow.begun.acquire(timeout=20)
            threading.Timer(1.5, slow.go.set).start()
            with pytest.raises(APIStatusError, match="not answered within 1 seconds") as late:
                client.chat.completions.create(model="tiny", messages=question(sound))
            assert first.result(20).choices
        assert late.value.status_code == 504
        assert late.value.response.headers["x-should-retry"] == "false"
    finally:
        slow.go.set()
        server.stop()


def test_a_failure_in_the_middle_ends_the_stream_with_its_sentence(
    model: SpeechLLM, sound: bytes
) -> None:
    class Failing:
        manifest, scheduler = model.manifest, model.scheduler

        def stream(self, *_: Any, **__: Any) -> AnswerStream:
            return AnswerStream(self._pieces())

        def _pieces(self) -> Any:
            yield "one"
            raise RuntimeError("a path of the server's")

    server = Running(Failing())
    try:
        stream = server.client().chat.completions.create(
            model="tiny", messages=question(sound), stream=True
        )
        assert next(stream).choices[0].delta.content == "one"
        with pytest.raises(APIError, match="its log says why") as raised:
            next(stream)
        assert "a path" not in str(raised.value)
    finally:
        server.stop()


def test_a_deadline_within_the_work_is_told_as_the_server_sees_it() -> None:
    events: list[Event] = []

    def late(_: Ticket) -> Any:
        raise DeadlineError("within the deadline of 599.9 seconds: lower max_new_tokens.")

    Ticket(late, events.append, 600.0).do()
    assert re.match(r"The request was not answered within 600 seconds", str(events[0].error))


def test_the_counter_keeps_its_order_and_its_bounds() -> None:
    counter, done, events = Counter(waiting=3), [], []
    gate = threading.Event()

    def work(number: int) -> Any:
        def pieces(_: Ticket) -> Any:
            gate.wait(10)
            done.append(number)
            yield "piece"
            return number

        return pieces

    told = threading.Semaphore(0)

    def tell(event: Event) -> None:
        events.append(event)
        if event.ended:
            told.release()

    tickets = [counter.enter(work(0), tell, 20)]
    wait_for(lambda: counter.working == 1)
    tickets += [counter.enter(work(n), tell, 20) for n in range(1, 4)]
    with pytest.raises(RequestError, match="ask again later"):
        counter.enter(work(9), tell, 20)
    counter.leave(tickets[2])
    tickets.append(counter.enter(work(4), tell, 20))
    gate.set()
    for _ in range(4):
        assert told.acquire(timeout=10)
    assert done == [0, 1, 3, 4]
    assert [event.result for event in events if event.ended] == [0, 1, 3, 4]
    counter.close()
    with pytest.raises(RequestError, match="stopping"):
        counter.enter(work(5), tell, 20)


def started(*arguments: object, **environment: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "speechprune_ort", "serve", *map(str, arguments), "--port", "0"],
        stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"serving \S+ at (\S+)", line):
            return process, found[1]
    raise AssertionError(f"it did not start: {process.wait(10)}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_server_ends_what_it_was_at(
    bundle: Path, sound: bytes, number: signal.Signals
) -> None:
    process, url = started(bundle, "--device", "cpu", "--name", "tiny", SPEECHPRUNE_API_KEY=KEY)
    try:
        client = OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        stream = client.chat.completions.create(
            model="tiny", messages=question(sound), max_tokens=300, stream=True
        )
        pieces = [next(iter(stream))]
        process.send_signal(number)
        pieces += list(stream)
        assert pieces[-1].choices[0].finish_reason in ("length", "stop")
        assert process.wait(30) == 128 + number
        with pytest.raises(OSError, match="refused"):
            get(f"{url}/health")
    finally:
        process.kill()
        process.wait()


def test_a_stopped_server_tells_those_whose_answers_it_ends(bundle: Path, sound: bytes) -> None:
    process, url = started(
        bundle, "--device", "cpu", "--name", "tiny", "--max-new-tokens", 6000, "--max-batch", 1,
        "--stop-seconds", 1,
    )  # fmt: skip
    told: list[str] = []
    drain = threading.Thread(target=lambda: told.extend(process.stderr or ()))
    drain.start()
    try:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        # To "Who?" the answer ends by itself in a third of a second, to this it does not end.
        given: dict[str, Any] = {
            "model": "tiny", "messages": question(sound, "What is said?"), "max_tokens": 6000,
        }  # fmt: skip
        stream = iter(client.chat.completions.create(**given, stream=True))
        next(stream)
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(client.chat.completions.create, **given)
            wait_for(lambda: json.loads(get(f"{url}/health"))["waiting"] == 1)
            half = socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), 30)
            half.sendall(HALF)
            process.send_signal(signal.SIGTERM)
            with pytest.raises(APIError, match="is stopping: ask again later"):
                list(stream)
            with pytest.raises(APIStatusError, match="is stopping: ask again later") as raised:
                waits.result(30)
        assert raised.value.status_code == 503
        with half:
            assert b" 503 " in half.recv(4096)
        assert process.wait(30) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
        drain.join()
    assert "Traceback" not in "".join(told)


HALF = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
)
"""A request that does not come to its end."""


def test_a_port_that_is_taken_is_one_sentence(bundle: Path) -> None:
    with listen_on("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OptionError, match="give another --host or --port"):
            listen_on("127.0.0.1", port)
    with pytest.raises(OptionError, match="port must be at most 65535"):
        listen_on("127.0.0.1", 99_999)


@pytest.mark.parametrize("host", ["", "\udcff", "a" * 300, "a b", "\n", "\0", "[::1]"])
def test_what_is_no_host_is_one_sentence_and_never_every_address(host: str) -> None:
    with pytest.raises(OptionError, match="--host") as raised:
        listen_on(host, 0)
    assert len(str(raised.value)) < 250
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    "wrong",
    [{"name": ""}, {"timeout": 0.0}, {"queue": -1}, {"api_key": " "}, {"api_key": "é"},
     {"origins": ("example.org",)}, {"origins": ("https://example.org/",)},
     {"origins": ("http://a\nb",)}, {"origins": ("\udcff://",)}, {"origins": ("http://A.org",)},
     {"max_body_mb": float("inf")}],
)  # fmt: skip
def test_an_impossible_option_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        ServeOptions(**{"name": "tiny", "pruning": PruningOptions(), **wrong})


def test_a_name_or_key_that_is_given_is_not_passed_over(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"a" * 5000)
    for option, value, message in (
        ("--name", "", "name must be printable text"),
        ("--api-key-file", tmp_path / "key", "has more than 4096 bytes"),
    ):
        result = CliRunner().invoke(app, ["serve", str(bundle), option, str(value)])
        assert isinstance(result.exception, OptionError)
        assert message in str(result.exception)


def test_an_answer_comes_with_what_a_page_draws(running: Running, sound: bytes) -> None:
    for stream in (False, True):
        found: Any = running.client().chat.completions.create(
            model="tiny", messages=question(sound), max_tokens=3, stream=stream,
            extra_body={"speechprune": {"explain": True}},
        )  # fmt: skip
        last = list(found)[-1] if stream else found
        view = last.to_dict()["speechprune"]["view"]
        assert view["question"] == "Who?"
        (shown,) = view["recordings"]
        assert len(shown["curves"][0]["values"]) == 125
        assert shown["spans"] == last.to_dict()["speechprune"]["spans"]
    with pytest.raises(BadRequestError, match=r"explain takes true or false"):
        running.client().chat.completions.create(
            model="tiny", messages=question(sound),
            extra_body={"speechprune": {"explain": "yes"}},
        )  # fmt: skip


def test_the_page_needs_no_key_and_can_send_nothing_elsewhere(running: Running) -> None:
    with urlopen(Request(f"{running.url}/"), timeout=20) as response:  # noqa: S310 - our server
        page, policy = response.read().decode(), response.headers["content-security-policy"]
    assert 'const MODEL = "tiny";' in page
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert not re.search(r"(?:src|href)=|url\(", page)


@needs_chromium
def test_a_browser_uploads_asks_and_plays(
    running: Running, model: SpeechLLM, sound: bytes, tmp_path: Path
) -> None:
    (tmp_path / "call.wav").write_bytes(sound)
    with Browser(tmp_path) as browser:
        browser.open(f"{running.url}/")
        browser.choose("#file", tmp_path / "call.wav")
        assert "API key is missing" in browser.until(
            "document.querySelector('#problem').textContent"
        )
        browser.click("#key")  # which is shown now
        browser.type(KEY)
        browser.click("h1")
        browser.until("!document.querySelector('#send').disabled")
        assert "125 audio tokens" in browser.get("document.querySelector('#state').textContent")
        browser.get("document.querySelector('#longest').value = 4")
        for text in ("Who?", "Why <b>not</b>?"):
            browser.get("document.querySelector('#question').value = ''")
            browser.click("#question")
            browser.type(text)
            browser.click("#send")
            drawn = 2 if text == "Who?" else 4
            browser.until(f"document.querySelectorAll('article canvas').length >= {drawn}")
        assert browser.get("[...document.querySelectorAll('h2')].map(n => n.textContent)") == [
            "Why <b>not</b>?", "Who?",
        ]  # fmt: skip
        assert browser.get("document.querySelectorAll('[aria-label^=waveform] canvas').length") == 2
        said = [{"start": 0, "end": 2.5, "text": "<b>One</b>"},
                {"start": 2.5, "end": 5, "text": "two"}]  # fmt: skip
        wrong = "<img src=x onerror=window.evil=1>.json"
        for name, content in ((wrong, {"start": 0}), ("said.json", {"turns": said})):
            (tmp_path / name).write_text(json.dumps(content))
        browser.choose("#said", tmp_path / wrong)
        told = browser.until("document.querySelector('#problem').textContent")
        assert told.startswith(f"{wrong} is not a transcript: choose JSON like")
        browser.choose("#said", tmp_path / "said.json")
        browser.until("document.querySelectorAll('article tr').length == 4")
        assert browser.get("document.querySelector('#problem').textContent") == ""
        rows = browser.get("[...document.querySelectorAll('article:last-child tr')].map("
                           "n => [...n.children].map(c => c.textContent))")  # fmt: skip
        assert [row[2] for row in rows] == ["<b>One</b>", "two"]
        alone = model.ask(sound, "Who?", max_new_tokens=4)
        path = tmp_path / "said.json"
        expected = explain(alone, sound, transcripts=[path]).kept_shares(0)
        shares = [float(row[1].removesuffix(" % kept")) / 100 for row in rows]
        assert shares == pytest.approx(expected, abs=0.02), "half a token at either end"
        browser.click("article tr:last-child")
        browser.until("document.querySelector('tr:last-child').ariaCurrent === 'true'")
        browser.click("article .tracks", x=0.6, y=0.3)
        browser.until("document.querySelector('audio').currentTime >= 2.9")
        browser.get("document.querySelector('#rate').value = 7")
        browser.get("document.querySelector('#rate').max = 9")
        browser.click("#send")
        assert "pruning_rate" in browser.until("document.querySelector('#problem').textContent")
        assert browser.get("document.querySelectorAll('b, img').length") == 0, "text is text"
        expected = [e for e in browser.errors if "401" not in e and "400" not in e]
        assert expected == []
