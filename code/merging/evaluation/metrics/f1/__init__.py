"""The metric ``f1``; see ``f1.py``."""
