"""Accuracy on recordings with choices: read a set, score a bundle on it, say how sure that is."""
