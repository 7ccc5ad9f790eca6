"""``speechprune-ort serve``: a bundle behind OpenAI's protocol."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from speechprune_ort.audio_options import AudioOptions
from speechprune_ort.cli.options import (
    HEARD,
    AllowSilence,
    Budget,
    Bundle,
    Candidates,
    Device,
    MaxSeconds,
    MemoryBudgetMb,
    Method,
    MethodOption,
    Plugins,
    ProviderOption,
    PruningRate,
    Threads,
    load_plugins,
    own_options,
    provider_options,
    pruning_rate_of,
)
from speechprune_ort.cli.quiet import tell_note
from speechprune_ort.errors import OptionError
from speechprune_ort.options import DEFAULT_METHOD, PruningOptions

__all__ = ["serve"]

KEY = "SPEECHPRUNE_API_KEY"
LONGEST_KEY = 4096  # bytes
PACKAGES = ("prometheus_client", "python_multipart", "starlette", "uvicorn")


def serve(
    bundle: Bundle,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines ask.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the model for clients; by default the bundle folder's name."),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the key that clients must give; by default that in the environment "
            f"variable {KEY}."
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin of another site whose pages may send requests; may be repeated."),
    ] = None,
    queue: Annotated[
        int, typer.Option(help="Largest number of waiting requests; further ones get status 429.")
    ] = 16,
    max_batch: Annotated[
        int | None,
        typer.Option(help="Largest number of answers that are decoded together; 8 by default."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds that a request may take, waiting included.")
    ] = 600.0,
    max_body_mb: Annotated[
        float, typer.Option(help="Largest request that is accepted, in 1e6 bytes.")
    ] = 200.0,
    max_new_tokens: Annotated[
        int, typer.Option(help="Longest answer that a request may ask for, in tokens.")
    ] = 512,
    max_recordings: Annotated[
        int, typer.Option(help="Largest number of uploaded recordings to keep.")
    ] = 32,
    keep_hours: Annotated[
        float, typer.Option(help="Hours after which an uploaded recording is forgotten.")
    ] = 24.0,
    stop_seconds: Annotated[
        float,
        typer.Option(help="Seconds that running requests have to finish when the server stops."),
    ] = 30.0,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Print a line for every request.")
    ] = False,
    method: Method = DEFAULT_METHOD,
    pruning_rate: PruningRate = "0.2",
    budget: Budget = None,
    candidates: Candidates = None,
    method_option: MethodOption = None,
    memory_budget_mb: MemoryBudgetMb = 192.0,
    max_seconds: MaxSeconds = 4 * 3600.0,
    allow_silence: AllowSilence = False,
    device: Device = "auto",
    threads: Threads = None,
    provider_option: ProviderOption = None,
    plugin: Plugins = None,
) -> None:
    """Serve a bundle to OpenAI's clients, until Ctrl-C or SIGTERM.

    POST /v1/chat/completions answers a question about a recording (input_audio), streamed on
    request; POST /v1/files encodes a recording once, for questions about its id. GET /v1/models,
    /health and /metrics describe the server.
    """
    import importlib.util

    if any(importlib.util.find_spec(found) is None for found in PACKAGES):
        raise OptionError("serve needs more packages: pip install 'speechprune-ort[serve]'.")
    from speechprune_ort.cli.signals import leave_to_server
    from speechprune_ort.model import SpeechLLM
    from speechprune_ort.server.options import ServeOptions
    from speechprune_ort.server.run import is_local, listen_on
    from speechprune_ort.server.run import serve as run

    load_plugins(plugin)
    options = ServeOptions(
        name=bundle.resolve().name if name is None else name,
        pruning=PruningOptions(
            method=method,
            pruning_rate=pruning_rate_of(pruning_rate),
            budget=budget,
            **own_options(method_option, candidates=candidates),
        ),
        audio=AudioOptions(
            max_seconds=max_seconds,
            max_channels=HEARD.max_channels,
            allow_silence=allow_silence,
        ),
        max_new_tokens=max_new_tokens,
        max_body_mb=max_body_mb,
        timeout=timeout,
        queue=queue,
        max_recordings=max_recordings,
        keep_hours=keep_hours,
        memory_budget_mb=memory_budget_mb,
        api_key=_key(api_key_file),
        origins=tuple(cors_origin or ()),
        stop_seconds=stop_seconds,
    )
    listener = listen_on(host, port)
    if options.api_key is None and not is_local(host):
        sys.stderr.write(
            f"note: Anyone who can reach {host} may ask: set {KEY} to require a key.\n"
        )
    provided = provider_options(provider_option)
    model = SpeechLLM(bundle, device, threads, provided, max_batch=max_batch)
    for note in model.manifest.notes:
        tell_note(note)
    leave_to_server()
    run(
        model,
        options,
        listener,
        host,
        lambda address: typer.echo(f"serving {options.name} at {address}", err=True),
        access_log,
    )


def _key(file: Path | None) -> str | None:
    """The key that clients must give, or None."""
    if file is None:
        return os.environ.get(KEY)
    try:
        with file.open("rb") as opened:
            content = opened.read(LONGEST_KEY + 1)
        if len(content) > LONGEST_KEY:
            raise OptionError(f"{file} has more than {LONGEST_KEY} bytes: give a file with a key.")
        return content.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{file} cannot be read ({error}): give a file with a key.") from None
