"""Tables of the spectra of single matrices and of their metrics."""
