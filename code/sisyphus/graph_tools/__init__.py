"""Tools for whole graphs: compare, replace, migrate, import, print, remove with all that depends on it."""
