"""Questions on the command line. The end of stdin is the harmless answer: scripts neither hang nor crash."""

from __future__ import annotations


def ask(question: str, harmless: str = "") -> str:
    """Ask, and return the answer in lower case without surrounding blanks.

    Args:
        question: text shown before the cursor.
        harmless: the answer taken at the end of stdin.
    """
    try:
        return input(question).strip().lower()
    except EOFError:
        print(f"{harmless} (no answer)")  # noqa: T201 - the other half of the line that input() began
        return harmless


def confirm(question: str) -> bool:
    """Ask a question whose answer is no unless it is y or yes."""
    return ask(f"{question} [y/N] ", "n") in ("y", "yes")
