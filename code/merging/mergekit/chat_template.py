"""The chat template of a merged model, as a mergekit file asks for it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from merging.errors import OptionError

_FILE_NAME = "chat_template.jinja"
_CONFIG_NAME = "tokenizer_config.json"


def check(template: str | None) -> None:
    """Refuse the names of templates that mergekit brings along.

    Raises:
        OptionError: it is neither "auto" nor a Jinja template.
    """
    if template is not None and template != "auto" and "{" not in template:
        raise OptionError(
            f"chat_template must be 'auto' (the one that most models have) or a Jinja template, got "
            f"{template!r}. mergekit's own templates are not part of this project: write the template itself."
        )


def write(template: str | None, folder: Path, models: Sequence[Path]) -> None:
    """Give a merged model its template; None leaves the one that came with the tokenizer.

    Args:
        template: "auto" or a Jinja template.
        folder: of the merged model.
        models: folders of its sources; of templates that equally many have, the first counts.
    """
    if template == "auto":
        found = [its for its in map(read, models) if its is not None]
        if not found:
            return
        counts = Counter(found)
        template = max(found, key=lambda its: counts[its])
    if template is None:
        return
    (folder / _FILE_NAME).write_text(template, encoding="utf-8")
    path = folder / _CONFIG_NAME
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("chat_template", None) is not None:
            path.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> str | None:
    """The template of a model, where it has exactly one."""
    if (folder / _FILE_NAME).is_file():
        return (folder / _FILE_NAME).read_text(encoding="utf-8")
    if (folder / _CONFIG_NAME).is_file():
        found = json.loads((folder / _CONFIG_NAME).read_text(encoding="utf-8")).get("chat_template")
        return found if isinstance(found, str) else None
    return None
