"""Models with different vocabularies: which tokens the merged model knows, and its tokenizer.

``tokens`` reads what a model's tokenizer knows; ``joint`` decides which tokens get which rows, and where the
rows of each model come from; ``tokenizer`` writes the tokenizer that fits, and proves it by a round trip;
``alignment`` brings all models of a merge to the joint vocabulary.
"""
