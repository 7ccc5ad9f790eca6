"""Makes bundles from checkpoints: everything that needs torch, transformers or onnx.

One file per exported graph, one per model family under ``families``; ``pipeline`` runs them.
"""
