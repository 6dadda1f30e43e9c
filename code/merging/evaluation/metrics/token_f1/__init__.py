"""The metric ``token_f1``; see ``token_f1.py``."""
