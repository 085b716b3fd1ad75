"""Tables of rolling windows: what is derived from Gram matrices, and the nulls beside it."""
