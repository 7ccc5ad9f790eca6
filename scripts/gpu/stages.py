"""Stages of a GPU's check that need the runtime: the same graphs and answers, CPU beside device.

Called by ``run.py`` as ``python stages.py STAGE DEVICE BUNDLE [REFERENCE]``; prints one JSON.
Exit code 1: the device does not compute what the CPU computes.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort import SpeechLLM
from speechprune_ort.contract.specs import FIRST_LAYER_QK, GraphSpec
from speechprune_ort.profiling.trace import SMALL, feeds_of, placements
from speechprune_ort.providers import CPU_PROVIDER, CUDA_PROVIDER, StrictSession
from speechprune_ort.runtime.answering.decoder import Decoder
from speechprune_ort.runtime.answering.prompt import Prompt, embed_ids

HERE = Path(__file__).parent
QUESTIONS = 3
NEW_TOKENS = 24
PROMPTS = (200, 40, 230, 700)  # tokens
SETTINGS = (("none", 0.0), ("speechprune", 0.6), ("coverage", 0.8))
SAME_GRAPH = 0.999  # least cosine of one graph on two devices: half precision reorders sums
SAME_MATRICES = 0.99  # of the same weights in another order of sums, through all layers
FORCED = {"fp16": 0.99, "bf16": 0.98, "int8": 0.98, "int4": 0.9}
"""Least cosine of logits to the CPU's float32."""
CLEAR = 0.1  # of the logits' standard deviation: a lead that rounding must not turn
SAME_KEPT = 0.97  # least share of kept tokens: half precision can turn what is nearly equal


def filled(spec: GraphSpec, sizes: Mapping[str, int], limit: int) -> dict[str, NDArray[Any]]:
    """Inputs of a graph, random where they are numbers and possible where they are indices."""
    random = np.random.default_rng(0)
    feeds = feeds_of(spec, sizes)
    for name, values in feeds.items():
        if values.dtype.kind == "f":
            feeds[name] = random.standard_normal(values.shape).astype(values.dtype)
        elif name == "token_ids":
            feeds[name] = random.integers(0, limit, values.shape)
        elif name in ("indices", "position_ids"):
            feeds[name] = np.broadcast_to(np.arange(values.shape[-1]), values.shape).copy()
    return feeds


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Of all values; not a number where one of them is not finite.

    Nothing but zeros is like nothing but zeros, and like nothing else.
    """
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y / norms) if norms else float(not x.any() and not y.any())


def placement(device: str, bundle: Path, _: Path) -> tuple[Any, bool]:
    """Operators by the provider that ran them."""
    found = placements(SpeechLLM(bundle, device).engine)  # type: ignore[arg-type]
    wanted = CUDA_PROVIDER if device == "cuda" else CPU_PROVIDER
    return found, all(wanted in counts for counts in found.values())


def graphs(device: str, bundle: Path, _: Path) -> tuple[Any, bool]:
    """Every graph on the CPU and on the device, from the same inputs."""
    engine = SpeechLLM(bundle, device).engine  # type: ignore[arg-type]
    dims, well, found = engine.manifest.dimensions, True, {}
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # A cache of the prompt's own length: beyond it, it would hold what was there before.
    sizes = SMALL | {"frames": dims.frames, "windows": 2, "rows": 40, "past": SMALL["tokens"]}
    for name, entry in engine.manifest.graphs.items():
        if entry.spec != entry.spec.in_float32():
            found[name] = {"not compared": "it takes bfloat16, which the CPU cannot"}
            continue
        feeds = filled(entry.spec, sizes, dims.vocab)
        names = [tensor.name for tensor in entry.spec.outputs]
        there = engine.session(name).run(names, feeds)
        row: dict[str, Any] = {}
        found[name] = row
        try:
            here = StrictSession(engine.path(name), options, [CPU_PROVIDER]).run(names, feeds)
        except Exception as error:  # onnxruntime raises several classes of its own
            row["not compared"] = str(error).splitlines()[0]
            well &= all(np.isfinite(values).all() for values in there)
            continue
        least = 1.0 if name == FIRST_LAYER_QK else SAME_GRAPH
        for tensor, a, b in zip(entry.spec.outputs, here, there, strict=True):
            equal = bool(np.array_equal(a, b))
            row[tensor.name] = {"cosine": cosine(a, b), "equal": equal}
            well &= equal if name == FIRST_LAYER_QK else row[tensor.name]["cosine"] >= least
    return found, well


def forced(device: str, bundle: Path, reference: Path) -> tuple[Any, bool]:
    """Answers of the CPU in float32, read step by step by both; and the tokens that both keep."""
    there = SpeechLLM(bundle, device)  # type: ignore[arg-type]
    here = SpeechLLM(reference, "cpu")
    recording = HERE / "recording"
    asked = json.loads((recording / "questions.json").read_text(encoding="utf-8"))["questions"]
    heard, also = (model.listen(recording / "meeting.ogg") for model in (here, there))
    precision = there.manifest.precision
    rows: list[dict[str, Any]] = []
    found: dict[str, Any] = {"embeds": cosine(heard.embeds, also.embeds), "answers": rows}
    for item in asked[:QUESTIONS]:
        for method, rate in SETTINGS:
            options: dict[str, Any] = {
                "method": method,
                "pruning_rate": rate,
                "max_new_tokens": NEW_TOKENS,
            }
            answer, other = (r.ask(item["question"], **options) for r in (heard, also))
            kept = answer.pruning.indices
            both = np.intersect1d(kept, other.pruning.indices)
            prompt = Prompt.of(here.engine, item["question"])
            before, after = (embed_ids(here.engine, i) for i in prompt.parts)
            embeds = np.concatenate([before, heard.embeds[kept], after])
            logits = [_read(model, embeds, answer.token_ids) for model in (here, there)]
            rows.append(
                {
                    "question": item["question"], "method": method, "rate": rate,
                    "text": answer.text, "text there": other.text,
                    "same kept": len(both) / max(1, len(kept)),
                    **_compared(*logits),
                }
            )  # fmt: skip
    least = FORCED[precision]
    well = all(row["least cosine"] >= least for row in rows)
    if precision == "fp16":
        well &= all(row["clear ones turned"] == 0 for row in rows)
        well &= float(np.mean([row["same kept"] for row in rows])) >= SAME_KEPT
    return found, well


def captured(device: str, bundle: Path, _: Path) -> tuple[Any, bool]:
    """Steps as CUDA graphs beside the same steps launched kernel by kernel."""
    return _with_and_without(device, bundle, {"enable_cuda_graph": "1"}, SAME_GRAPH)


def fused(device: str, bundle: Path, _: Path) -> tuple[Any, bool]:
    """Matrices in 4 or 8 bits multiplied as they are beside the same, turned to half precision."""
    return _with_and_without(device, bundle, {"ep.cuda.fpa_intb_gemm": "1"}, SAME_MATRICES)


def _with_and_without(
    device: str, bundle: Path, options: Mapping[str, str], least: float
) -> tuple[Any, bool]:
    models = [
        SpeechLLM(bundle, device, provider_options=given)  # type: ignore[arg-type]
        for given in (None, options)
    ]
    dims = models[0].manifest.dimensions
    random, rows = np.random.default_rng(0), []
    for length in PROMPTS:  # the later ones find the buffers of the first, and what lies in them
        ids = random.integers(0, dims.vocab, length + NEW_TOKENS).tolist()
        embeds = embed_ids(models[0].engine, tuple(ids[:length]))
        plain, other = (_read(model, embeds, tuple(ids[length:])) for model in models)
        rows.append({"prompt": length, **_compared(plain, other)})
    return rows, all(row["least cosine"] >= least for row in rows)


def _read(model: SpeechLLM, embeds: NDArray[Any], ids: tuple[int, ...]) -> NDArray[np.float32]:
    """Logits (1 + ids, vocab) along a given answer."""
    decoder = Decoder.open(model.engine, len(embeds) + len(ids))
    rows = [decoder.prefill(embeds, np.arange(len(embeds))).copy()]
    rows += [decoder.step(token, len(embeds) + n).copy() for n, token in enumerate(ids)]
    return np.stack(rows).astype(np.float32)


def _compared(here: NDArray[np.float32], there: NDArray[np.float32]) -> dict[str, Any]:
    best = np.sort(here, axis=-1)[:, -2:]
    clear = (best[:, 1] - best[:, 0]) > CLEAR * here.std(axis=-1)
    same = here.argmax(axis=-1) == there.argmax(axis=-1)
    return {
        "least cosine": min(cosine(a, b) for a, b in zip(here, there, strict=True)),
        "steps": len(here),
        "same first choice": float(same.mean()),
        "clear ones turned": int((clear & ~same).sum()),
    }


def main() -> None:
    """Take a stage; stdout is for its JSON alone."""
    name, device, bundle = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    stage = {f.__name__: f for f in (placement, graphs, forced, captured, fused)}[name]
    with contextlib.redirect_stdout(sys.stderr):
        found, well = stage(device, bundle, Path(sys.argv[-1]))
    print(json.dumps(found))
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
