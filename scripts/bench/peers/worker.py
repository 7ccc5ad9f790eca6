"""One contender in a process of its own: takes orders as JSON lines, gives times as JSON lines.

    python worker.py KIND MODEL [--threads N]

Peers whose packages exclude each other have environments of their own. The process waits between
orders without using the processor, so that contenders can take turns. An order is one JSON object:

- ``{"do": "text", "prompts": [[ids], ...], "steps": n}``: read prompts of one length, then n
  tokens behind each by greedy search, all of them a step at a time;
- ``{"do": "encode", "audio": FILE}``: a window of audio through the audio encoder;
- ``{"do": "answer", "audio": FILE, "question": TEXT, "steps": n, "pruning_rate": r or null}``:
  from samples to n tokens of an answer;
- ``{"do": "answers", "questions": [TEXT, ...], ...}``: the same for several questions at once.

An answer has seconds by their names and the tokens' ``ids``, or one ``error``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

Order = dict[str, Any]
Result = dict[str, Any]


def text_result(started: float, read: float, said: Sequence[Sequence[int]]) -> Result:
    """What ``text`` gives: when it began, when the prompts were read, and ids of each."""
    now = perf_counter()
    return {"prefill_s": read - started, "decode_s": now - read, "whole_s": now - started,
            "ids": [i for ids in said for i in ids]}  # fmt: skip


def ours(model: Path, threads: int) -> Callable[[Order], Result]:
    """The runtime of this repository, on a bundle."""
    import numpy as np

    from speechprune_ort import GenerationOptions, PruningOptions, SpeechLLM
    from speechprune_ort.runtime.answering.decoder import Decoder
    from speechprune_ort.runtime.answering.prompt import embed_ids

    llm = SpeechLLM(model, "cpu", threads)

    def encode(order: Order) -> Result:
        recording = llm.listen(order["audio"])
        return {"encode_s": recording.timings.seconds["encoder"]}

    def answer(order: Order) -> Result:
        rate = order["pruning_rate"]
        pruning = PruningOptions("none") if rate is None else PruningOptions("speechprune", rate)
        generation = GenerationOptions(max_new_tokens=order["steps"], ignore_stop=True)
        started = perf_counter()
        said = llm.ask(order["audio"], order["question"], pruning=pruning, generation=generation)
        seconds = perf_counter() - started
        return {"answer_s": seconds, "ids": list(said.token_ids), "kept": said.pruning.kept}

    def answers(order: Order) -> Result:
        rate = order["pruning_rate"]
        pruning = PruningOptions("none") if rate is None else PruningOptions("speechprune", rate)
        generation = GenerationOptions(max_new_tokens=order["steps"], ignore_stop=True)
        started = perf_counter()
        recording = llm.listen(order["audio"])
        said = list(recording.ask_many(order["questions"], pruning=pruning, generation=generation))
        seconds = perf_counter() - started
        return {"answers_s": seconds, "ids": [i for one in said for i in one.token_ids]}

    def text(order: Order) -> Result:
        prompts, steps = order["prompts"], order["steps"]
        started = perf_counter()
        decoder = Decoder.open(llm.engine, len(prompts[0]) + steps, len(prompts))
        said = []
        for row, ids in enumerate(prompts):
            embeds = embed_ids(llm.engine, tuple(ids))
            said.append([int(decoder.prefill(embeds, np.arange(len(ids)), row).argmax())])
        read = perf_counter()
        for place in range(len(prompts[0]), len(prompts[0]) + steps - 1):
            found = decoder.steps({row: (ids[-1], place) for row, ids in enumerate(said)})
            for row, logits in found.items():
                said[row].append(int(logits.argmax()))
        return text_result(started, read, said)

    works = {"encode": encode, "answer": answer, "answers": answers, "text": text}
    return lambda order: works[order["do"]](order)


def torch_model(model: Path, threads: int, dtype: str) -> Callable[[Order], Result]:
    """Hugging Face transformers on torch with scaled dot product attention."""
    import soundfile
    import torch
    import transformers

    torch.set_num_threads(threads)
    library: Any = transformers
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    whole = library.Qwen2AudioForConditionalGeneration.from_pretrained(
        model, dtype=getattr(torch, dtype), attn_implementation="sdpa"
    ).eval()
    processor = library.AutoProcessor.from_pretrained(model)

    def features_of(audio: str) -> Any:
        samples, rate = soundfile.read(audio, dtype="float32")
        extract = processor.feature_extractor
        return extract(samples, sampling_rate=rate, padding="max_length", return_tensors="pt")

    def encode(order: Order) -> Result:
        features = features_of(order["audio"])["input_features"].to(whole.dtype)
        started = perf_counter()
        hidden = whole.model.audio_tower(features).last_hidden_state
        whole.model.multi_modal_projector(hidden)
        return {"encode_s": perf_counter() - started}

    def answer(order: Order) -> Result:
        said = answers({**order, "questions": [order["question"]]})
        return {"answer_s": said["answers_s"], "ids": said["ids"]}

    def answers(order: Order) -> Result:
        prompts = []
        for question in order["questions"]:
            parts = [{"type": "audio"}, {"type": "text", "text": question}]
            turn = [{"role": "user", "content": parts}]
            prompts.append(
                processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
            )
        started = perf_counter()
        samples, rate = soundfile.read(order["audio"], dtype="float32")
        inputs = processor(
            text=prompts, audio=[samples] * len(prompts), sampling_rate=rate,
            return_tensors="pt", padding=True,
        )  # fmt: skip
        inputs["input_features"] = inputs["input_features"].to(whole.dtype)
        steps = order["steps"]
        said = whole.generate(
            **inputs, do_sample=False, max_new_tokens=steps, min_new_tokens=steps
        )[:, inputs["input_ids"].shape[1] :]
        return {"answers_s": perf_counter() - started, "ids": said.flatten().tolist()}

    def text(order: Order) -> Result:
        ids, steps = torch.tensor(order["prompts"]), order["steps"]
        language_model, head = whole.model.language_model, whole.lm_head
        started = perf_counter()
        out = language_model(input_ids=ids, use_cache=True)
        tokens = head(out.last_hidden_state[:, -1]).argmax(-1)
        read, said = perf_counter(), [tokens]
        for _ in range(steps - 1):
            out = language_model(input_ids=tokens[:, None], past_key_values=out.past_key_values)
            tokens = head(out.last_hidden_state[:, -1]).argmax(-1)
            said.append(tokens)
        return text_result(started, read, torch.stack(said, 1).tolist())

    works = {"encode": encode, "answer": answer, "answers": answers, "text": text}

    @torch.inference_mode()
    def run(order: Order) -> Result:
        return works[order["do"]](order)

    return run


def genai(model: Path, threads: int) -> Callable[[Order], Result]:
    """onnxruntime-genai's own generator, on the folder that its builder made."""
    import numpy as np
    import onnxruntime_genai as og

    config = og.Config(str(model))
    config.overlay(
        json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}})
    )
    language_model = og.Model(config)

    def text(order: Order) -> Result:
        prompts = np.array(order["prompts"], np.int32)
        options = og.GeneratorParams(language_model)
        options.set_search_options(
            do_sample=False, batch_size=len(prompts),
            max_length=prompts.shape[1] + order["steps"],
            min_length=prompts.shape[1] + order["steps"],
        )  # fmt: skip
        generator = og.Generator(language_model, options)
        started = perf_counter()
        generator.append_tokens(prompts)
        generator.generate_next_token()
        read, said = perf_counter(), [generator.get_next_tokens().tolist()]
        for _ in range(order["steps"] - 1):
            generator.generate_next_token()
            said.append(generator.get_next_tokens().tolist())
        return text_result(started, read, list(zip(*said, strict=True)))

    return text


def llama(model: Path, threads: int) -> Callable[[Order], Result]:
    """llama.cpp through llama-cpp-python, on a GGUF file."""
    import llama_cpp
    import numpy as np

    language_model = llama_cpp.Llama(
        str(model), n_ctx=64, n_threads=threads, n_threads_batch=threads, verbose=False
    )

    def best(context: Any, place: int) -> int:
        # Its sampler would sort all logits: the best of them is looked up as by everyone else.
        logits = llama_cpp.llama_get_logits_ith(context, place)
        return int(np.ctypeslib.as_array(logits, (language_model.n_vocab(),)).argmax())

    def text(order: Order) -> Result:
        prompts, steps = order["prompts"], order["steps"]
        rows, length = len(prompts), len(prompts[0])
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = rows * (length + steps)
        options.n_batch = rows * length
        options.n_seq_max = rows
        options.n_threads = options.n_threads_batch = threads
        context = llama_cpp.llama_init_from_model(language_model.model, options)
        batch = llama_cpp.llama_batch_init(rows * length, 0, 1)

        def decode(tokens: Sequence[Sequence[int]], start: int) -> list[int]:
            batch.n_tokens = 0
            last = []
            for row, ids in enumerate(tokens):
                for place, token in enumerate(ids):
                    at = batch.n_tokens
                    batch.token[at], batch.pos[at] = token, start + place
                    batch.n_seq_id[at], batch.seq_id[at][0] = 1, row
                    batch.logits[at] = place == len(ids) - 1
                    batch.n_tokens += 1
                last.append(batch.n_tokens - 1)
            if status := llama_cpp.llama_decode(context, batch):
                raise RuntimeError(f"llama_decode gave {status}")
            return [best(context, at) for at in last]

        try:
            started = perf_counter()
            said = [decode(prompts, 0)]
            read = perf_counter()
            for step in range(steps - 1):
                said.append(decode([[token] for token in said[-1]], length + step))
            return text_result(started, read, list(zip(*said, strict=True)))
        finally:
            llama_cpp.llama_batch_free(batch)
            llama_cpp.llama_free(context)

    return text


def faster_whisper(model: Path, threads: int, compute_type: str) -> Callable[[Order], Result]:
    """faster-whisper's encoder: its log-mel, then the same weights in CTranslate2."""
    import ctranslate2
    import numpy as np
    import soundfile
    from faster_whisper.feature_extractor import FeatureExtractor

    whisper = ctranslate2.models.Whisper(
        str(model), device="cpu", intra_threads=threads, compute_type=compute_type
    )

    def run(order: Order) -> Result:
        samples, rate = soundfile.read(order["audio"], dtype="float32")
        extract = FeatureExtractor(feature_size=whisper.n_mels, sampling_rate=rate)
        features = np.ascontiguousarray(extract(samples)[None, :, :3000])
        started = perf_counter()
        whisper.encode(ctranslate2.StorageView.from_array(features), to_cpu=True)
        return {"encode_s": perf_counter() - started}

    return run


KINDS: dict[str, Callable[[Path, int], Callable[[Order], Result]]] = {
    "ours": ours,
    "torch-float32": lambda model, threads: torch_model(model, threads, "float32"),
    "torch-bfloat16": lambda model, threads: torch_model(model, threads, "bfloat16"),
    "genai": genai,
    "llama": llama,
    "faster-whisper-float32": lambda model, threads: faster_whisper(model, threads, "float32"),
    "faster-whisper-int8": lambda model, threads: faster_whisper(model, threads, "int8"),
}
PACKAGES = {
    "ours": "onnxruntime",
    "torch-float32": "torch",
    "torch-bfloat16": "torch",
    "genai": "onnxruntime-genai",
    "llama": "llama-cpp-python",
    "faster-whisper-float32": "faster-whisper",
    "faster-whisper-int8": "faster-whisper",
}


def main() -> None:
    """Take orders until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    out, sys.stdout = sys.stdout, sys.stderr  # libraries print; answers alone go out
    run = KINDS[arguments.kind](arguments.model, arguments.threads)
    version = importlib.metadata.version(PACKAGES[arguments.kind])
    out.write(json.dumps({"ready": PACKAGES[arguments.kind], "version": version}) + "\n")
    out.flush()
    for line in sys.stdin:
        try:
            answer = run(json.loads(line))
        except Exception as error:  # the other end names the contender and goes on
            answer = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
