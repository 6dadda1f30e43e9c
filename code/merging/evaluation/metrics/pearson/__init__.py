"""The metric ``pearson``; see ``pearson.py``."""
