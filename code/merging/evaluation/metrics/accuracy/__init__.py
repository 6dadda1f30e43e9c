"""The metric ``accuracy``; see ``accuracy.py``."""
