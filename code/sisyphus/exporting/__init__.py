"""Finished work as folders that others can read without Sisyphus."""
