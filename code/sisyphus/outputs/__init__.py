"""What a graph is computed for: targets, and the links below ``output/`` and ``alias/``."""
