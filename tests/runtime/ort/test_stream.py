"""What stays on a GPU stays right: copies from buffer to buffer, by their addresses."""

from __future__ import annotations

from typing import Any

import fake_gpu
import numpy as np
import pytest

from speechprune_ort.contract.specs import Dimensions
from speechprune_ort.runtime.answering import cache as cache_module
from speechprune_ort.runtime.answering.cache import Cache
from speechprune_ort.runtime.hearing import embeddings as embeddings_module
from speechprune_ort.runtime.hearing.embeddings import DeviceEmbeds, EmbedsBuilder
from speechprune_ort.runtime.ort.device import Device
from speechprune_ort.runtime.ort.stream import CudaStream, Stream, open_stream

HALF = np.dtype(np.float16)
DIMS = Dimensions(
    mel_bins=80,
    frames=3000,
    window_tokens=4,
    hidden=8,
    layers=2,
    heads=4,
    kv_heads=3,
    head_dim=4,
    vocab=11,
    context=100,
)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    for module in (cache_module, embeddings_module):
        monkeypatch.setattr(module, "copy_rows", fake_gpu.copy_rows)
    return fake_gpu.FakeGpu()


def test_the_cpu_needs_no_order_of_its_own() -> None:
    assert type(open_stream(Device("cpu"))) is Stream
    assert issubclass(CudaStream, Stream)


@pytest.mark.parametrize("on_gpu", [True, False])
def test_windows_are_collected_repeated_and_kept_as_the_buffer_grows(
    on_gpu: bool, gpu: Any
) -> None:
    device: Any = gpu if on_gpu else Device("cpu")
    builder = EmbedsBuilder((4, 8), HALF, device, budget=10**6)
    rows = np.random.default_rng(0).standard_normal((5, 4, 8)).astype(HALF)
    wanted: list[Any] = []

    def encode(window: Any, count: int) -> None:
        """What a session writes where it was told to."""

        class Binding:
            def bind_output(self, *given: Any) -> None:
                address, shape = given[5], given[4]
                held = np.ascontiguousarray(window)
                assert list(held[None].shape) == shape
                fake_gpu.copy_rows(held.ctypes.data, held.nbytes, address, held.nbytes,
                                   held.nbytes, 1)  # fmt: skip

        binding: Any = Binding()
        builder.bind_next(binding, "audio_embeds")
        wanted.append(window[:count])

    encode(rows[0], 4)
    builder.commit(4)
    encode(rows[1], 3)
    silent = builder.peek(3)
    builder.commit(3)
    builder.append(rows[2])
    wanted.append(rows[2])
    for _ in range(6):  # beyond the first buffer
        builder.repeat(silent)
        wanted.append(rows[1][:3])
    encode(rows[3], 2)
    early = builder.so_far(builder.peek(2))
    np.testing.assert_array_equal(early.host, np.concatenate(wanted))
    wanted.pop()
    encode(rows[4], 4)
    builder.commit(4)
    found = builder.finish()
    np.testing.assert_array_equal(found.host, np.concatenate(wanted))
    assert np.array_equal(early.host[-2:], rows[3][:2]), "not changed by later windows"
    assert found.tokens == 4 + 3 + 4 + 18 + 4
    if on_gpu:
        with pytest.raises(ValueError, match="of a buffer of"):
            builder._embeds.rows(0, 1000)


def test_rows_from_the_host_go_to_their_place(gpu: Any) -> None:
    rows = np.arange(24, dtype=HALF).reshape(3, 8)
    embeds = DeviceEmbeds.of(rows, gpu)
    np.testing.assert_array_equal(embeds.host, rows)
    assert gpu.made == [(3, 8)], "memory for them is taken once"
    embeds.write(rows[:1], 2)
    np.testing.assert_array_equal(embeds.rows(1, 2), rows[[1, 0]])
    with pytest.raises(ValueError, match="rows 2 to 5 of a buffer of 3"):
        embeds.write(rows, 2)


def test_a_cache_that_grows_keeps_what_it_holds(gpu: Any) -> None:
    random = np.random.default_rng(1)
    smaller = Cache(gpu, DIMS, HALF, 2, 5)
    larger = Cache(gpu, DIMS, HALF, 3, 9)
    contents = [random.standard_normal((2, 3, 5, 4)).astype(HALF) for _ in smaller._buffers]
    for value, content in zip(smaller._buffers, contents, strict=True):
        value.update_inplace(content)
    larger.take(smaller, [4, 0])
    for value, content in zip(larger._buffers, contents, strict=True):
        found = value.numpy()
        np.testing.assert_array_equal(found[0, :, :4], content[0, :, :4])
        assert (found[0, :, 4:] == -7).all()
        assert (found[1:] == -7).all()
