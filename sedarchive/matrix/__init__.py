"""Quantities of one matrix, from its singular values."""
