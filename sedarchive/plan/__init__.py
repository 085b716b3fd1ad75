"""Blocks and projected memory of ingest and of both sweeps: integers in, integers out; nothing here reads a file."""
