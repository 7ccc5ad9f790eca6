"""What was kept of recordings, to look at and to listen to: pages, pictures, or the data."""

from speechprune_ort.explain.explanation import (
    Explanation,
    Line,
    Sound,
    check_ending,
    explain,
    explain_all,
    read_transcript,
)
from speechprune_ort.explain.writing import write_explanation, write_page

__all__ = [
    "Explanation",
    "Line",
    "Sound",
    "check_ending",
    "explain",
    "explain_all",
    "read_transcript",
    "write_explanation",
    "write_page",
]
