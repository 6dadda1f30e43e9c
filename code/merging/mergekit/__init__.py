"""mergekit's YAML, run by our own merge.

``config`` reads a file, ``settings`` evaluates its parameters at a tensor, ``translate`` turns them into our
methods and options, ``run`` merges. Follows the published behaviour of arcee-ai/mergekit (README and
docs/merge_methods.md), with its defaults and conventions where they differ from ours.
"""
