"""How spectra change over steps and depth: waves, gradients, laws over sizes."""
