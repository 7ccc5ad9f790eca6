"""The routes of a server, and the way of a request from the event loop to a thread and back."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict
from typing import Any, BinaryIO

from starlette.applications import Starlette
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from speechprune_ort import __version__
from speechprune_ort.answer_stream import AnswerStream, begin_all
from speechprune_ort.errors import OptionError, SpeechPruneError
from speechprune_ort.explain.page import asking_page
from speechprune_ort.methods import needs_cut, needs_encoder
from speechprune_ort.model import Audio, SpeechLLM
from speechprune_ort.options import PruningOptions
from speechprune_ort.recording import Recording
from speechprune_ort.results import Answer
from speechprune_ort.runtime.answering.prompt import AS_IS, form_of
from speechprune_ort.server.chat import Asked, Reply, read_chat
from speechprune_ort.server.counter import Counter, Event, Ticket, Work
from speechprune_ort.server.guards import Guard, Watch
from speechprune_ort.server.metrics import Metrics
from speechprune_ort.server.options import ServeOptions
from speechprune_ort.server.request_error import RequestError, request_error_of
from speechprune_ort.server.shelf import Shelf, Upload
from speechprune_ort.text import shown

__all__ = ["Service", "make_app"]

LOG = logging.getLogger("speechprune_ort.server")
AS_FORM = "send the recording as the file of a multipart form: file=@a.wav"
LOOKS = 0.5  # seconds between checks whether the client is still there
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; media-src blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Content security policy of the page, which needs no other file and can send nothing elsewhere."""
ROUTES = ("/", "/health", "/metrics", "/v1/models", "/v1/files", "/v1/chat/completions")


class Service:
    """A model, with the requests that wait for it.

    Args:
        model: the opened model.
        options: options of the server.

    Raises:
        OptionError: the bundle has no graph for the method.
    """

    def __init__(self, model: SpeechLLM, options: ServeOptions) -> None:
        self.model, self.options = model, options
        self._check_method(options.pruning)
        # As many answers as are decoded together; recordings are encoded one after the other.
        self.counter = Counter(options.queue, model.scheduler.rows)
        self._ear = threading.Lock()
        self.shelf = Shelf(options.max_recordings, 3600 * options.keep_hours)
        self.metrics = Metrics(self.counter)
        self._page = asking_page(options.name)

    def page(self, _: Request) -> Response:
        """A page to ask from; what is typed there goes to this server alone."""
        return HTMLResponse(self._page, headers={"content-security-policy": POLICY})

    def health(self, _: Request) -> Response:
        """Whether the server is up, and how busy."""
        return JSONResponse(
            {
                "status": "ok",
                "model": self.options.name,
                "version": __version__,
                "waiting": self.counter.waiting,
                "working": self.counter.working,
            }
        )

    def figures(self, _: Request) -> Response:
        """The figures for Prometheus."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(self, request: Request) -> Response:
        """The one model, in a list or by its name."""
        model = {
            "id": self.options.name,
            "object": "model",
            "created": 0,
            "owned_by": self.model.manifest.source,
        }
        if "model" not in request.path_params:
            return JSONResponse({"object": "list", "data": [model]})
        if request.path_params["model"] != self.options.name:
            raise RequestError(404, f"There is no such model: ask for {self.options.name!a}.")
        return JSONResponse(model)

    async def chat(self, request: Request) -> Response:
        """A question about a recording."""
        begun = time.monotonic()
        kind = request.headers.get("content-type", "").split(";")[0].strip()
        if kind.lower() != "application/json":
            raise RequestError(415, "Send the request as JSON: Content-Type: application/json.")
        self.counter.check_room()
        body = await self._read(request)
        asked = await asyncio.to_thread(read_chat, body, self.options)
        del body
        work = self._question(asked)
        events = self._events(request, work, begun, asked.stream)
        first = await anext(events)  # what fails before the first piece has a status of its own
        if not asked.stream:
            last = first
            while not last.ended:
                last = await anext(events)
            return JSONResponse(Reply(self.options.name, asked.explain).whole(last.result))
        lines = self._lines(first, events, asked)
        return StreamingResponse(
            lines, media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    async def upload(self, request: Request) -> Response:
        """Encode a recording, once for all questions about it."""
        self.shelf.check_room()
        self.counter.check_room()
        begun = time.monotonic()
        async with self._form(request) as form:
            names = [name for name, _ in form.multi_items()]
            for name in names:
                if name not in ("file", "purpose") or names.count(name) > 1:
                    raise RequestError(
                        400, f"The form has a field {shown(name)} that it should not have, or has "
                        "twice: send file, and purpose if you like, each once.",
                    )  # fmt: skip
            file, purpose = form.get("file"), form.get("purpose", "user_data")
            if not isinstance(file, UploadFile) or not isinstance(purpose, str):
                raise RequestError(400, f"{AS_FORM[0].upper()}{AS_FORM[1:]}.")
            name, size = file.filename or "recording", file.size or 0
            work = self._hearing(file.file, name, size, purpose)
            async for event in self._events(request, work, begun):
                if event.ended:
                    return JSONResponse(event.result.to_dict())
        raise AssertionError("a hearing has an end")

    async def uploads(self, request: Request) -> Response:
        """List all uploads, describe one of them, or delete one."""
        name = request.path_params.get("file")
        if name is None:
            listed = [upload.to_dict() for upload in self.shelf.uploads()]
            return JSONResponse({"object": "list", "data": listed, "has_more": False})
        if request.method == "DELETE":
            self.shelf.remove(name)
            return JSONResponse({"id": name, "object": "file", "deleted": True})
        return JSONResponse(self.shelf.get(name).to_dict())

    def _question(self, asked: Asked) -> Work:
        sounds = [
            self.shelf.get(sound).recording if isinstance(sound, str) else sound
            for sound in asked.sounds
        ]
        # What the template has no place for is refused before anything is encoded.
        form_of(self.model.manifest, asked.wording, len(sounds))
        self._check_method(asked.pruning)
        uploads = [sound for sound in sounds if isinstance(sound, Recording)]
        if needs_encoder(asked.pruning) and any(one.encoder_attention is None for one in uploads):
            raise RequestError(
                400, f"The method {asked.pruning.method} reads the audio encoder's attention, "
                "which was not kept of an uploaded recording: send it as input_audio, or use "
                "another method.",
            )  # fmt: skip

        first, *others = sounds
        # In the plainest request, the answer counts the time of encoding as its own.
        plain = not others and asked.n == 1 and asked.wording == AS_IS
        alone = first if plain and isinstance(first, bytes) else None

        def work(ticket: Ticket) -> Generator[tuple[int, str], None, tuple[Answer, ...]]:
            streams: Sequence[AnswerStream]
            if alone is None:
                streams = self._streams(asked, sounds, ticket)
            else:
                streams = [self._hearing_stream(asked, alone, ticket)]
            try:
                yield from _pieces(streams)
            finally:
                for stream in streams:
                    stream.close()
            answers = tuple(stream.answer for stream in streams)
            if alone is not None:
                self.metrics.heard(answers[0].seconds_heard)
            for answer in answers:
                self.metrics.answered(answer)
            return answers

        return work

    def _hearing_stream(self, asked: Asked, sound: bytes, ticket: Ticket) -> AnswerStream:
        """An answer in progress, for which all that comes before decoding is done."""
        stream = self.model.stream(
            sound,
            asked.question,
            audio_options=self.options.audio,
            pruning=asked.pruning,
            generation=asked.generation,
            deadline=ticket.left,
            cancel=ticket.cancel,
        )
        with self._hearing_alone(ticket):
            stream.begin()
        return stream

    def _streams(
        self, asked: Asked, sounds: Sequence[Recording | bytes], ticket: Ticket
    ) -> Sequence[AnswerStream]:
        """Answers in progress, for which all that comes before decoding is done."""
        first, *others = [
            self._hear(ticket, sound, asked.pruning) if isinstance(sound, bytes) else sound
            for sound in sounds
        ]
        recording = (first.beside(*others) if others else first).worded(**asdict(asked.wording))
        streams = recording.stream_samples(
            asked.question,
            asked.n,
            pruning=asked.pruning,
            generation=asked.generation,
            deadline=ticket.left,
            cancel=ticket.cancel,
        )
        begin_all(streams)
        return streams

    @contextmanager
    def _hearing_alone(self, ticket: Ticket) -> Iterator[None]:
        """Let one recording be encoded at a time: several would take more memory and no less time.

        Raises:
            CancelledError: the request was ended; ``DeadlineError`` where its time is over.
        """
        while not self._ear.acquire(timeout=LOOKS):
            ticket.cancel.check()
            _ = ticket.left
        try:
            yield
        finally:
            self._ear.release()

    def _hearing(self, file: BinaryIO, name: str, size: int, purpose: str) -> Work:
        def work(ticket: Ticket) -> Generator[None, None, Upload]:
            recording = self._hear(ticket, file, self.options.pruning)
            return self.shelf.put(recording, name, size, purpose)
            yield  # a generator, as all work is

        return work

    def _hear(self, ticket: Ticket, audio: Audio, pruning: PruningOptions) -> Recording:
        with self._hearing_alone(ticket):
            recording = self.model.listen(
                audio,
                memory_budget_mb=self.options.memory_budget_mb,
                encoder_attention=needs_encoder(pruning),
                audio_options=self.options.audio,
                deadline=ticket.left,
                cancel=ticket.cancel,
            )
        self.metrics.heard(recording.seconds_heard)
        return recording

    def _check_method(self, pruning: PruningOptions) -> None:
        """Refuse a method that the bundle has no graph for.

        Raises:
            OptionError: it is one.
        """
        manifest = self.model.manifest
        for option, lacking in (
            ("--encoder-attention", needs_encoder(pruning) and not manifest.encoder_attention),
            ("--cut-after", needs_cut(pruning) and manifest.cut_after is None),
        ):
            if lacking:
                raise OptionError(
                    f"The method {pruning.method} needs a bundle that was exported with {option}, "
                    "and this one was not: use another method."
                )

    @asynccontextmanager
    async def _form(self, request: Request) -> AsyncIterator[FormData]:
        try:
            async with self._within():
                form = await request.form(max_files=1, max_fields=8)
        except (HTTPException, ValueError) as error:  # as its charset, or its own rules, have it
            told = error.detail if isinstance(error, HTTPException) else str(error)
            raise RequestError(
                400, f"The form cannot be read ({told.rstrip('.')}): {AS_FORM}."
            ) from None
        try:
            yield form
        finally:
            await form.close()

    async def _read(self, request: Request) -> bytes:
        async with self._within():
            return await request.body()

    @asynccontextmanager
    async def _within(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.options.timeout):
                yield
        except TimeoutError:
            raise RequestError(
                408,
                f"The request did not come within {self.options.timeout:g} seconds: send it "
                "again over a faster connection.",
            ) from None

    async def _events(
        self, request: Request, work: Work, begun: float, stream: bool = False
    ) -> AsyncIterator[Event]:
        """The events of a request; raises what ended it. A client that leaves loses its place."""
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def tell(event: Event) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        ticket = self.counter.enter(work, tell, self.options.timeout, begun)
        first, looked = True, time.monotonic()
        try:
            while True:
                event = None
                with suppress(TimeoutError):
                    event = await asyncio.wait_for(events.get(), LOOKS)
                # Once a streamed answer has begun, writing it shows whether the client has left.
                if (first or not stream) and time.monotonic() - looked >= LOOKS:
                    looked = time.monotonic()
                    if await request.is_disconnected():
                        raise ClientDisconnect
                if event is None:
                    continue
                if event.error is not None:
                    raise event.error
                if first and event.piece:
                    self.metrics.first_token(time.monotonic() - begun)
                first = False
                yield event
                if event.ended:
                    return
        finally:
            self.counter.leave(ticket)

    async def _lines(
        self, first: Event, events: AsyncIterator[Event], asked: Asked
    ) -> AsyncIterator[str]:
        """Server-sent events of a streamed answer."""
        reply, event, opened = Reply(self.options.name, asked.explain), first, set[int]()
        try:
            while not event.ended:
                number, text = event.piece
                yield _sse(reply.piece(number, text, number not in opened))
                opened.add(number)
                event = await anext(events)
            yield _sse(reply.last(event.result))
            if asked.usage:
                yield _sse(reply.usage(event.result))
        except Exception as error:  # the status has been sent: the error is a line of its own
            yield _sse(_logged(error).body)
        yield "data: [DONE]\n\n"


def _pieces(streams: Sequence[AnswerStream]) -> Iterator[tuple[int, str]]:
    """Pieces of several answers in turns, each with the number of its answer."""
    left = dict(enumerate(streams))
    while left:
        for number, stream in list(left.items()):
            piece = next(stream, None)
            if piece is None:
                del left[number]
            else:
                yield number, piece


def _sse(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def _logged(error: Exception) -> RequestError:
    problem = request_error_of(error)
    if problem.status == 500:
        LOG.error("a request failed", exc_info=error)
    return problem


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        path = shown(request.scope["path"])  # request.url fails for hosts such as "["
        problem = RequestError(error.status_code, f"{error.detail}: {path}.")
    elif isinstance(error, ClientDisconnect):
        return Response(status_code=499)
    else:
        problem = _logged(error)
    return JSONResponse(problem.body, problem.status, problem.headers)


def make_app(service: Service, hosts: tuple[str, ...] = ("*",)) -> Starlette:
    """The application that an ASGI server runs.

    Args:
        service: what it serves.
        hosts: host names that requests may give; they keep out pages whose own name was made to
            lead to this machine.
    """
    options = service.options
    inner = [
        Middleware(Watch, metrics=service.metrics, routes=ROUTES),
        Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
    ]
    if options.origins:
        inner.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(options.origins),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["authorization", "content-type"],
            )
        )
    most = int(options.max_body_mb * 1e6)
    guard = Middleware(Guard, key=options.api_key, most_bytes=most, origins=options.origins)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.counter.close)

    files = "/v1/files"
    return Starlette(
        routes=[
            Route("/", service.page),
            Route("/health", service.health),
            Route("/metrics", service.figures),
            Route("/v1/models", service.models),
            Route("/v1/models/{model:path}", service.models),
            Route("/v1/chat/completions", service.chat, methods=["POST"]),
            Route(files, service.upload, methods=["POST"]),
            Route(files, service.uploads, methods=["GET"]),
            Route(f"{files}/{{file}}", service.uploads, methods=["GET", "DELETE"]),
        ],
        middleware=[*inner, guard],
        exception_handlers={
            HTTPException: _refused,
            RequestError: _refused,
            SpeechPruneError: _refused,
            ClientDisconnect: _refused,
            Exception: _refused,
        },
        lifespan=lifespan,
    )
