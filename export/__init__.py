"""The wing that makes bundles: everything that needs torch, transformers or onnx.

One file per exported graph, one per model family under ``families``; ``pipeline`` runs them.
"""
