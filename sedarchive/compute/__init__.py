"""From an archive to its tables."""
