"""ONNX Runtime's sessions over the graphs of a bundle, and its tokenizer."""
