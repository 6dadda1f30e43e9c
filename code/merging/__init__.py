"""Merging fine-tuned models: data, training, Hessians, merge methods, evaluation, tables.

A library that knows nothing of jobs; ``python -m merging --help`` drives it without a manager.
"""
