"""Statistics of series: phases, changes, couplings, each with its null."""
