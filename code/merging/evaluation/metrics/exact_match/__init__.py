"""The metric ``exact_match``; see ``exact_match.py``."""
