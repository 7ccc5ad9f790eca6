"""Answers questions about recordings: numpy and ONNX Runtime alone, never torch or transformers."""
