"""Markdown as HTML."""

from __future__ import annotations

from markdown_it import MarkdownIt


def render_markdown(text: str) -> str:
    """Return Markdown as HTML: with tables, without images, HTML in it escaped, no scripts in links."""
    return str(MarkdownIt("commonmark", {"html": False}).enable("table").disable("image").render(text))
