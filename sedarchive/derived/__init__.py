"""Checkpoints made from archived ones: with layers removed, or fresh ones with their singular values."""
