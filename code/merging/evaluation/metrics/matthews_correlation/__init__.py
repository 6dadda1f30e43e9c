"""The metric ``matthews_correlation``; see ``matthews_correlation.py``."""
