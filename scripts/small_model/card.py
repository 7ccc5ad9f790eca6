"""The model card and the licence notices inside the checkpoint folder."""

from __future__ import annotations

from collections.abc import Sequence

CARD = """\
---
license: apache-2.0
language: en
base_model:
  - openai/whisper-base
  - HuggingFaceTB/SmolLM2-135M-Instruct
pipeline_tag: audio-text-to-text
---

# Whisper base + SmolLM2-135M-Instruct, untrained projector

**The projector is not trained yet: this checkpoint cannot answer questions about audio.** It is
the starting point of training, and a small checkpoint of the real class for trying out export and
runtime.

Class `Qwen2AudioForConditionalGeneration`, float32. Whisper-base encoder (6 layers, width 512, 80
mel bins), average pooling by 2 and LayerNorm (25 audio tokens a second), linear projector 512 ->
{hidden}, SmolLM2-135M-Instruct.

## Parts

{origins}

The projector's weights are normal with standard deviation {std} (seed {seed}); its bias is the mean
of the token embeddings. An audio token therefore starts near the middle of the embeddings and
spreads about as widely as they do, without meaning anything.

## Text

Three of SmolLM2's reserved tokens for source code are renamed, ids and vocabulary size unchanged:

{tokens}

A prompt is ChatML without a default system message; audio is
`<|audio_bos|><|AUDIO|><|audio_eos|>` and a line end. `lm_head.weight` is a copy of the token
embeddings: SmolLM2 ties them, this class does not.

## Use

```python
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

model = Qwen2AudioForConditionalGeneration.from_pretrained("FOLDER")
processor = AutoProcessor.from_pretrained("FOLDER")
```

## Licences

Whisper: MIT. SmolLM2: Apache-2.0. See NOTICE.
"""

NOTICE = """\
This checkpoint contains parts of two models.

1. The encoder of Whisper base, under the MIT License:

Copyright (c) 2022 OpenAI

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.

2. SmolLM2-135M-Instruct by the Hugging Face TB Research team, under the Apache
License, Version 2.0 (https://www.apache.org/licenses/LICENSE-2.0). Changes:
three reserved tokens renamed, the output layer stored apart from the token
embeddings, and the precision named in README.md expanded to float32.
"""


def model_card(
    origins: Sequence[str],
    tokens: Sequence[tuple[str, str, int]],
    hidden: int,
    std: float,
    seed: int,
) -> str:
    """The README.md of a checkpoint whose projector is untrained.

    Args:
        origins: One line for each part.
        tokens: Old text, new text and id of each renamed token.
        hidden: Width of the language model.
        std: Standard deviation of the projector's weights.
        seed: Seed of the projector's weights.
    """
    return CARD.format(
        origins="\n".join(f"- {origin}" for origin in origins),
        tokens="\n".join(f"- `{old}` -> `{new}` ({index})" for old, new, index in tokens),
        hidden=hidden,
        std=std,
        seed=seed,
    )
