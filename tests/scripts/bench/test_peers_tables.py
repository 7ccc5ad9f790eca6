"""Tables of ``bench_peers``: medians, a step's share, and who is the fastest peer."""

from __future__ import annotations

from typing import Any

from bench.peers.tables import tables_of

STEPS = 3  # of which the first is the prompt's


def content(**seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Figures of one case."""
    named = {name.replace("_", " ").replace("ours", "speechprune-ort"): v
             for name, v in seconds.items()}  # fmt: skip
    case = {"name": "text, 150 tokens", "steps": STEPS, "seconds": named}
    return {"versions": dict.fromkeys(named, ""), "cases": [case]}


def test_medians_stand_beside_torch_and_the_fastest_peer_of_as_many_bits() -> None:
    found = tables_of(
        content(
            ours_w8a8={"prefill_s": [0.2, 0.1, 0.3], "decode_s": [0.08, 0.08, 0.08]},
            transformers_sdpa_fp32={"prefill_s": [1.0, 1.0, 1.0], "decode_s": [0.2, 0.2, 0.2]},
            slow_int8={"prefill_s": [0.9, 0.9, 0.9], "decode_s": [0.1, 0.1, 0.1]},
            fast_int8={"prefill_s": [0.4, 0.4, 0.4], "decode_s": [0.05, 0.05, 0.05]},
            fast_int4={"prefill_s": [0.1, 0.1, 0.1], "decode_s": [0.01, 0.01, 0.01]},
        )
    )
    assert "| speechprune-ort w8a8 | 200 | 5.00 |" in found
    assert "| prefill: text, 150 tokens | 0.50 [0.25, 0.75] fast |" in found
    assert "| decode, a step: text, 150 tokens | 1.60 [1.60, 1.60] fast |" in found


def test_who_did_not_take_part_in_a_case_has_an_empty_cell() -> None:
    found = tables_of(
        content(
            ours_int8={"prefill_s": [0.2]},
            transformers_sdpa_fp32={"decode_s": [0.2]},
        )
    )
    assert "| speechprune-ort int8 | 200 |  |" in found
    assert "| transformers sdpa fp32 | 100 | 1.00 |" in found
    assert "prefill: text" not in found  # no peer
