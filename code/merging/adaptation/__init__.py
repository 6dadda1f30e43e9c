"""Merging that learns from unlabelled inputs: AdaMerging, representation surgery and WEMoE.

``adamerging`` learns the coefficients of a merge, which then runs through the ordinary methods; ``surgery``
corrects the features of a merged model by a small module for each task; ``wemoe`` keeps the MLPs of all tasks
and chooses between them by the input.
"""
