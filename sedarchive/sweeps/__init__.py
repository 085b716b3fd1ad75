"""The two sweeps over an archive: Gram matrices of updates, and spectra of matrices."""
