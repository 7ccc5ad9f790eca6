"""The wing that answers: numpy and ONNX Runtime alone, never torch or transformers."""
