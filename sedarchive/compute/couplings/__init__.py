"""Tables of couplings of windows with logged metrics."""
