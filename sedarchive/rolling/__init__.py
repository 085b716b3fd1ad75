"""Quantities of rolling windows of updates, from their Gram matrices."""
