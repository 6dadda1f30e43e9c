"""What we run: one file for each table. ``sis manager`` without arguments builds Table 1."""


def main() -> None:
    """Build Table 1 of the paper."""
    from config.table1 import py

    py()
