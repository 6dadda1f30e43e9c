"""The metric ``token_accuracy``; see ``token_accuracy.py``."""
