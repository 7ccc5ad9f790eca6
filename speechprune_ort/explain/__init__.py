"""What was kept of a recording, to look at and to listen to: pages, pictures, or the data."""

from speechprune_ort.explain.explanation import (
    Explanation,
    Line,
    check_ending,
    explain,
    explain_all,
    read_transcript,
)
from speechprune_ort.explain.writing import write_explanation, write_page

__all__ = [
    "Explanation",
    "Line",
    "check_ending",
    "explain",
    "explain_all",
    "read_transcript",
    "write_explanation",
    "write_page",
]
