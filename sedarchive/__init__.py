"""sedarchive: the spectral history of a training run, from its checkpoints."""

__version__ = "0.1.0"
