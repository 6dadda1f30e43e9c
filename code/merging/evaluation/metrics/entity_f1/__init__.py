"""The metric ``entity_f1``; see ``entity_f1.py``."""
