"""Training of the small model, behind ``scripts/train_small_model.py``; its stages: ``train``."""
