"""Training of the small model, behind ``scripts/train_small_model.py``; ``train`` has the stages."""
