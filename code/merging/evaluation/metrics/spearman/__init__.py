"""The metric ``spearman``; see ``spearman.py``."""
