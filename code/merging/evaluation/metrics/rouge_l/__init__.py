"""The metric ``rouge_l``; see ``rouge_l.py``."""
