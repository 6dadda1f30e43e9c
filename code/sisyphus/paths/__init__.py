"""Around Path: finding paths in values, paths beside recipes, sizes of files."""
