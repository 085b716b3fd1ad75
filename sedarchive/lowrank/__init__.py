"""Products of two factors, never formed: which tensors make one, its Gram matrices, its singular values."""
