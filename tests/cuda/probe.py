"""Runs in the environment of onnxruntime-gpu: does one thing, and prints what it found as JSON.

python probe.py WHAT BUNDLE [WORK]
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from speechprune_ort import DeviceError, SpeechLLM
from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.export.parity import checked, open_graph
from speechprune_ort.profiling.trace import SMALL, feeds_of, traced
from speechprune_ort.providers import cuda_problem
from speechprune_ort.runtime.answering.decoder import Decoder
from speechprune_ort.runtime.hearing.features import LogMel
from speechprune_ort.runtime.ort.stream import CudaStream, copy_rows

QUESTION = "What is said?"
RATE = 16_000
MANY = 40  # of tokens and rows: more than any arithmetic of shapes has numbers
POOL = 1 << 25  # bytes


def runtime() -> Any:
    """The stand-in's own functions."""
    library = ctypes.CDLL("libcudart.so.13")
    for name in ("stand_in_used", "stand_in_peak"):
        getattr(library, name).restype = ctypes.c_size_t
    return library


def native(session: Any) -> Any:
    """ONNX Runtime's session of a graph, where ours is around it."""
    return getattr(session, "_session", session)


def sound(seconds: float) -> Any:
    """Noise, (samples,) float32."""
    return np.random.default_rng(0).standard_normal(int(seconds * RATE)).astype(np.float32) * 0.1


def placement(bundle: Path, _: Path) -> Any:
    """Of each graph: every operator, the provider that ran it, and what it gave."""
    engine = SpeechLLM(bundle, "cuda").engine
    sizes = SMALL | {"frames": engine.manifest.dimensions.frames}
    sizes |= dict.fromkeys(("tokens", "rows", "kept", "total", "past", "slots"), MANY)
    found = {}
    for name, entry in engine.manifest.graphs.items():
        (events,) = traced(engine, name, [feeds_of(entry.spec, sizes)])
        told = [event["args"] for event in events]
        found[name] = [(a["op_name"], a["provider"], a["output_type_shape"]) for a in told]
    return found


class Pool:
    """ONNX Runtime's pool for values made from Python, which stays with the process.

    It is made large enough for a test: whatever is allocated beside it belongs to a model.
    """

    def __init__(self) -> None:
        self._library = runtime()
        self.take()
        self._bytes = self._library.stand_in_used()

    def take(self) -> None:
        """Have all of it, which makes it grow where a value still lies in it."""
        ort.OrtValue.ortvalue_from_shape_and_type([POOL], np.uint8, "cuda", 0)

    @property
    def beside(self) -> int:
        """Bytes that are allocated elsewhere."""
        used: int = self._library.stand_in_used() - self._bytes
        return used


def work_with(model: SpeechLLM, work: Path) -> list[tuple[str, int]]:
    """Everything that a caller does with a model: where it was answered, and tokens of answers."""
    recording = model.listen(sound(40), sampling_rate=RATE)
    answers = [
        recording.ask(QUESTION, method=method, pruning_rate=rate, max_new_tokens=3)
        for method, rate in (("none", 0.0), ("speechprune", 0.5), ("passages", 0.8))
    ]
    floats: dict[str, Any] = {"method": "speechprune", "attention": "float", "max_new_tokens": 1}
    answers.append(recording.ask(QUESTION, **floats))
    recording.save(work / "recording.spr")
    loaded = model.load_recording(work / "recording.spr")
    assert np.array_equal(loaded.embeds, recording.embeds)
    scored = recording.score(QUESTION, ["yes", "no"])
    assert np.isfinite(np.concatenate(scored.log_probabilities)).all()
    live = model.live(RATE)
    for second in np.split(sound(4), 4):
        live.add(second)
    answers.append(live.ask(QUESTION, max_new_tokens=2))
    path = work / "sound.wav"
    write_wav(path)
    answers += model.ask_many([(path, QUESTION)] * 3, max_new_tokens=2)
    return [(answer.device, len(answer.token_ids)) for answer in answers]


def use(bundle: Path, work: Path) -> Any:
    """All of that twice; the bytes that stay allocated once a model is closed."""
    pool, answers, closed = Pool(), [], []
    for _ in range(2):
        model = SpeechLLM(bundle, "cuda")
        answers += work_with(model, work)
        sessions = model.engine._sessions.items()
        providers = {name: native(session).get_providers()[0] for name, session in sessions}
        model.close()
        closed.append(pool.beside)
        gc.collect()
        pool.take()
        closed.append(pool.beside)
    return {"answers": answers, "closed": closed, "providers": providers}


def room(bundle: Path, work: Path) -> Any:
    """The same on a GPU that may have no room for it."""
    return {"answers": work_with(SpeechLLM(bundle, "cuda"), work)}


def write_wav(path: Path) -> None:
    """A few seconds of noise."""
    import soundfile

    soundfile.write(path, sound(5), RATE)


def steps(bundle: Path, _: Path) -> Any:
    """A prefill and three steps of one row and of two between marks in the journal."""
    engine, library, lengths = SpeechLLM(bundle, "cuda").engine, runtime(), []
    embeds = np.zeros((10, engine.manifest.dimensions.hidden), engine.manifest.float_dtype)
    for rows in (1, 2):
        decoder = Decoder.open(engine, 64, rows)
        for row in range(rows):
            library.stand_in_mark(b"prefill")
            decoder.prefill(embeds, np.arange(10), row)
        for position in range(10, 14):
            library.stand_in_mark(b"step")
            decoder.steps(dict.fromkeys(range(rows), (1, position)))
        library.stand_in_mark(b"end")
        lengths += decoder.lengths
    return {"lengths": lengths, "layers": engine.manifest.dimensions.layers}


def fused(bundle: Path, _: Path) -> Any:
    """A prompt and a step, without and with fused kernels and captured ones, between marks."""
    library, used = runtime(), []
    fused = {"ep.cuda.fpa_intb_gemm": "1"}
    for options in ({}, fused, fused | {"enable_cuda_graph": "1"}):
        before = library.stand_in_used()
        library.stand_in_mark(b"open")
        engine = SpeechLLM(bundle, "cuda", provider_options=options).engine
        used.append(library.stand_in_used() - before)
        decoder = Decoder.open(engine, 300)
        embeds = np.zeros((250, engine.manifest.dimensions.hidden), engine.manifest.float_dtype)
        library.stand_in_mark(b"prefill")
        decoder.prefill(embeds, np.arange(250))
        library.stand_in_mark(b"step")
        decoder.step(1, 250)
        library.stand_in_mark(b"end")
        del decoder, engine
        gc.collect()
    return {"used": used}


def crossings(bundle: Path, _: Path) -> Any:
    """A long recording with silence in it, asked by several methods, between marks."""
    model, library = SpeechLLM(bundle, "cuda"), runtime()
    loud, silence = sound(30), np.zeros(30 * RATE, np.float32)
    threads = set[str]()
    alone = LogMel._measure

    def measured(*arguments: Any) -> None:
        threads.add(threading.current_thread().name.partition("_")[0])
        alone(*arguments)

    LogMel._measure = measured  # type: ignore[method-assign]
    whole = np.concatenate([*8 * [loud], silence, silence, loud[: 7 * RATE]])
    library.stand_in_mark(b"listen")
    recording = model.listen(whole, sampling_rate=RATE)
    for method, rate in (("none", 0.0), ("random", 0.6), ("speechprune", 0.6), ("coverage", 0.6)):
        library.stand_in_mark(method.encode())
        recording.ask(QUESTION, method=method, pruning_rate=rate, max_new_tokens=2)
    library.stand_in_mark(b"grow")
    decoder = Decoder.open(model.engine, 20)
    decoder.prefill(
        np.zeros((10, recording.embeds.shape[1]), recording.embeds.dtype), np.arange(10)
    )
    library.stand_in_mark(b"grown")
    decoder.grow(2, 40)
    library.stand_in_mark(b"end")
    return {
        "tokens": recording.tokens,
        "bytes": recording.embeds.nbytes,
        "threads": sorted(threads),
        "cores": len(os.sched_getaffinity(0)),
    }


def encoder(bundle: Path, _: Path) -> Any:
    """Four windows through the encoder between marks, and what that takes of memory."""
    engine, library = SpeechLLM(bundle, "cuda").engine, runtime()
    dims, spec = engine.manifest.dimensions, engine.manifest.graphs["audio_encoder"].spec
    feeds = feeds_of(spec, SMALL | {"frames": dims.frames, "windows": 4})
    before = library.stand_in_used()
    library.stand_in_mark(b"encode")
    engine.session("audio_encoder").run(["audio_embeds"], feeds)
    library.stand_in_mark(b"end")
    return {"bytes": library.stand_in_peak() - before}


def unordered(bundle: Path, _: Path) -> Any:
    """What must be noticed: a value is read before the run that writes it was waited for."""
    engine, library = SpeechLLM(bundle, "cuda").engine, runtime()
    dims, device = engine.manifest.dimensions, engine.device
    session = native(engine.session("rotary"))
    binding = session.io_binding()
    shape, dtype = (4, dims.head_dim // 2), engine.manifest.float_dtype
    values = {name: device.empty(shape, dtype) for name in ("cos", "sin")}
    positions = device.put(np.arange(4))
    binding.bind_ortvalue_input("position_ids", positions)
    for name, value in values.items():
        binding.bind_ortvalue_output(name, value)
    for wait in ("0", "1"):
        options = ort.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", wait)
        library.stand_in_mark(b"waited" if wait == "0" else b"unwaited")
        session.run_with_iobinding(binding, options)
        values["cos"].numpy()
    library.stand_in_mark(b"end")
    return {}


def graph_steps(bundle: Path, _: Path) -> Any:
    """Steps by CUDA graphs between marks, of two answers and of two rows; what stays allocated."""
    library, pool, left, closed, lengths = runtime(), Pool(), [], [], []
    for _ in range(2):
        model = SpeechLLM(bundle, "cuda", provider_options={"enable_cuda_graph": "1"})
        embeds = np.zeros((10, model.manifest.dimensions.hidden), model.manifest.float_dtype)
        for capacity, rows in ((64, 1), (100, 1), (64, 2)):
            decoder = Decoder.open(model.engine, capacity, rows)
            for row in range(rows):
                library.stand_in_mark(b"prefill")
                decoder.prefill(embeds, np.arange(10), row)
            for position in range(10, 13):
                library.stand_in_mark(b"step")
                decoder.steps(dict.fromkeys(range(rows), (1, position)))
            library.stand_in_mark(b"end")
            decoder.grow(rows + 1, 300)
            decoder.steps({0: (1, 13)})
            del decoder
            gc.collect()
        recording = model.listen(sound(40), sampling_rate=RATE)
        left.append([])
        for _ in range(3):
            answer = recording.ask(QUESTION, max_new_tokens=4)
            lengths.append(len(answer.token_ids))
            left[-1].append(library.stand_in_used())
        model.close()
        closed.append(pool.beside)
        del recording
        gc.collect()
        pool.take()
        closed.append(pool.beside)
    return {"left": left, "closed": closed, "lengths": lengths}


def float_attention(bundle: Path, _: Path) -> Any:
    """The float ablation alone, between marks."""
    engine, library = SpeechLLM(bundle, "cuda").engine, runtime()
    session = engine.session("first_layer_qk_float")
    embeds = np.zeros((40, engine.manifest.dimensions.hidden), engine.manifest.float_dtype)
    library.stand_in_mark(b"float")
    session.run(["query", "key"], {"audio_embeds": embeds})
    library.stand_in_mark(b"end")
    return {}


def failing(bundle: Path, _: Path) -> Any:
    """The encoder on a GPU that fails: the error, and where the session is afterwards."""
    model = SpeechLLM(bundle, "cuda")
    spec = model.manifest.graphs["audio_encoder"].spec
    feeds = feeds_of(spec, SMALL | {"frames": model.manifest.dimensions.frames})
    session = model.engine.session("audio_encoder")
    try:
        session.run(["audio_embeds"], feeds)
        raised = None
    except Exception as error:
        raised = (type(error).__name__, str(error))
    return {"raised": raised, "providers": native(session).get_providers()}


def failing_step(bundle: Path, _: Path) -> Any:
    """A step on a GPU that fails after the prompt was read, and the step after it."""
    engine, library, raised = SpeechLLM(bundle, "cuda").engine, runtime(), []
    decoder = Decoder.open(engine, 64)
    embeds = np.zeros((10, engine.manifest.dimensions.hidden), engine.manifest.float_dtype)
    decoder.prefill(embeds, np.arange(10))
    os.environ["STAND_IN_FAIL_AFTER"] = "0"
    for _ in range(2):
        library.stand_in_mark(b"failing")
        try:
            decoder.step(1, 10)
        except Exception as error:
            raised.append((type(error).__name__, str(error)))
        library.stand_in_mark(b"failed")
    return {"raised": raised}


def turns(bundle: Path, _: Path) -> Any:
    """Two answers at once: what each thread gives to the stream that both share, in order."""
    engine, told = SpeechLLM(bundle, "cuda").engine, []
    embeds = np.zeros((10, engine.manifest.dimensions.hidden), engine.manifest.float_dtype)
    together, up, down = threading.Barrier(2), CudaStream.up, CudaStream.down

    def slowly(stream: CudaStream, *arguments: Any) -> None:
        told.append(("up", threading.get_ident()))
        up(stream, *arguments)
        time.sleep(0.01)  # long enough for the other thread to come between

    def at_last(stream: CudaStream, *arguments: Any) -> None:
        down(stream, *arguments)
        told.append(("down", threading.get_ident()))

    def answer() -> None:
        decoder = Decoder.open(engine, 64)
        decoder.prefill(embeds, np.arange(10))
        together.wait()
        for position in range(10, 14):
            decoder.step(1, position)

    CudaStream.up, CudaStream.down = slowly, at_last  # type: ignore[method-assign]
    threads = [threading.Thread(target=answer) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"told": told}


def compared(bundle: Path, _: Path) -> Any:
    """The encoder opened and run as export does to compare it with torch."""
    manifest = Manifest.read(bundle)
    entry = manifest.graphs["audio_encoder"]
    session, problem = open_graph(bundle / entry.file, entry.spec, "cuda")
    feeds = feeds_of(entry.spec, SMALL | {"frames": manifest.dimensions.frames})
    told = checked(entry.file, problem, lambda: session.run(None, feeds) and [])
    return {"providers": session.get_providers(), "unverified": told.unverified}


def stray(bundle: Path, _: Path) -> Any:
    """What must be noticed: the host reads what lies on the GPU, and a copy that leaves it."""
    engine, library = SpeechLLM(bundle, "cuda").engine, runtime()
    value = engine.device.empty((4,), np.float32)
    held = np.zeros(1 << 20, np.float32)
    library.stand_in_mark(b"beyond")
    with contextlib.suppress(DeviceError):
        copy_rows(held.ctypes.data, held.nbytes, value.data_ptr(), held.nbytes, held.nbytes, 1)
    library.stand_in_mark(b"end")
    return ctypes.c_float.from_address(value.data_ptr()).value


def options(bundle: Path, _: Path) -> Any:
    """What the provider was told, graph by graph."""
    engine = SpeechLLM(bundle, "cuda").engine
    return {
        name: native(engine.session(name)).get_provider_options()["CUDAExecutionProvider"]
        for name in engine.manifest.graphs
    }


def problem(_: Path, __: Path) -> Any:
    """What keeps CUDA from running here."""
    return {"problem": cuda_problem()}


def main() -> None:
    """Find out, and keep stdout for the JSON alone."""
    what: dict[str, Callable[[Path, Path], Any]] = {
        f.__name__: f
        for f in (
            placement,
            use,
            room,
            steps,
            graph_steps,
            fused,
            crossings,
            encoder,
            unordered,
            float_attention,
            failing,
            failing_step,
            turns,
            compared,
            stray,
            options,
            problem,
        )
    }
    name, bundle, work = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[-1])
    with contextlib.redirect_stdout(sys.stderr):
        try:
            found = what[name](bundle, work)
        except Exception as error:
            found = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
