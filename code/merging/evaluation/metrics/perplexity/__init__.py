"""The metric ``perplexity``; see ``perplexity.py``."""
