"""The metric ``mean_squared_error``; see ``mean_squared_error.py``."""
