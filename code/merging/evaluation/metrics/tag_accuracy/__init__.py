"""The metric ``tag_accuracy``; see ``tag_accuracy.py``."""
