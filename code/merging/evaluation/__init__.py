"""Evaluation: one model on many tasks, with intervals, and every prediction kept."""
