"""Tables of the Lifecycle of spectra: waves, gradients over depth, timescales, importance, laws over runs."""
