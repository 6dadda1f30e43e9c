"""The model card of a merge: ``README.md``, made of what ``merge.json`` says, without a date or a path.

It names the method with formula and source, all options, every input with its commit or hash and its
licence, and the file that makes the same model again. :func:`described` adds to the sources in ``merge.json``
what their own cards say, so that a card can be written anew when the inputs are gone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from merging import explain
from merging.files import hub

CARD_NAME = "README.md"
RECORD_NAME = "merge.json"

_LICENCE_KEYS = ("license", "license_name", "license_link")
_SHOWN_CHARACTERS = 12
"""Of hashes and commits."""
_CELL_CHARACTERS = 200
"""Of a value in a table."""


def described(sources: Mapping[str, Any]) -> dict[str, Any]:
    """Add to the sources of a merge what is known of them: Hub id and commit, licence, languages.

    Args:
        sources: what ``merge.json`` says of each input, by label; those with a ``folder`` are looked at.
    """
    return {
        label: {**its, **_about(Path(its["folder"]))} if _is_model(its) else its
        for label, its in sources.items()
    }


def write_card(folder: str | os.PathLike[str], *, verification: Mapping[str, Any] | None = None) -> None:
    """Write ``README.md`` into a folder that a merge made; one that is there is replaced.

    Args:
        folder: it holds ``merge.json``.
        verification: fields of :class:`merging.merge.verification.Verification`, if the model was checked.
    """
    folder = Path(folder)
    record = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
    temporary = folder / f".{CARD_NAME}.{os.getpid()}"
    temporary.write_text(card(record, verification=verification), encoding="utf-8")
    temporary.replace(folder / CARD_NAME)


def card(record: Mapping[str, Any], *, verification: Mapping[str, Any] | None = None) -> str:
    """The text of a model card; the same for the same arguments.

    Args:
        record: what ``merge.json`` holds.
        verification: fields of :class:`merging.merge.verification.Verification`, if the model was checked.
    """
    method = str(record["method"])
    models = [_Input(label, its) for label, its in record["sources"].items() if _is_model(its)]
    tasks = record["tasks"] if "mergekit" not in record["sources"] else [its.name for its in models]
    parts = [
        _front_matter(record, models),
        f"# Merge of {_listed(tasks)} by {method}",
        _opening(record, models),
        "## Method",
        explain.first_paragraph(method),
        f"```\n{explain.formula(method)}\n```",
        _options(method, record),
        "## Inputs",
        "\n".join(_inputs(record["sources"], models)),
        _licences(models),
        *_statistics(record["sources"]),
        "## How to make it again",
        _reproduction(record),
        *(["## Checks", "\n".join(_checks(verification))] if verification is not None else []),
    ]
    return "\n\n".join(parts) + "\n"


@dataclasses.dataclass(frozen=True)
class _Input:
    """One model that was merged."""

    label: str
    its: Mapping[str, Any]

    @property
    def hub(self) -> str | None:
        """Its id on the Hub."""
        return self.its.get("hub")

    @property
    def name(self) -> str:
        """Its Hub id, or the name of its folder."""
        return self.hub or Path(self.its["folder"]).name

    @property
    def licence(self) -> Mapping[str, str]:
        """The keys of its card about the licence; empty where they are not known."""
        return {key: self.its[key] for key in _LICENCE_KEYS if key in self.its}

    @property
    def licence_text(self) -> str:
        """What the licence is called."""
        text = self.licence.get("license", "unknown")
        return self.licence.get("license_name", text) if text == "other" else text


def _is_model(its: Any) -> bool:
    return isinstance(its, Mapping) and {"folder", "weights_hash"} <= its.keys()


def _about(folder: Path) -> dict[str, Any]:
    """What a model folder says of itself, for ``merge.json``."""
    found: dict[str, Any] = {}
    identity = hub.identity(folder)
    if identity is not None:
        found = {"hub": identity.id, "commit": identity.commit}
    head = front_matter(folder / CARD_NAME)
    for key in _LICENCE_KEYS:
        if isinstance(head.get(key), str):
            found[key] = head[key]
    languages = head.get("language", [])
    languages = [languages] if isinstance(languages, str) else languages
    if isinstance(languages, list) and languages and all(isinstance(its, str) for its in languages):
        found["languages"] = languages
    return found


def front_matter(file: Path) -> dict[str, Any]:
    """The YAML at the top of a model card; empty where there is no file, none in it, or none that is YAML."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    found = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", text, flags=re.S)
    if found is None:
        return {}
    import yaml  # most merges need none

    try:
        head = yaml.safe_load(found[1])
    except yaml.YAMLError:
        return {}
    return head if isinstance(head, dict) else {}


def _front_matter(record: Mapping[str, Any], models: Sequence[_Input]) -> str:
    """What the Hub reads. JSON is YAML, too, and needs no care for special characters."""
    ids = sorted({its.hub for its in models if its.hub is not None})
    languages = sorted({language for its in models for language in its.its.get("languages", ())})
    head: dict[str, Any] = {
        "library_name": "peft" if "result" in record else "transformers",
        "tags": ["merge", "model-merging", str(record["method"])],
    }
    if ids:
        head |= {"base_model": ids, "base_model_relation": "merge"}
    head |= _common_licence(models)
    if languages:
        head["language"] = languages
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
    return "\n".join(["---", *lines, "---"])


def _common_licence(models: Sequence[_Input]) -> Mapping[str, str]:
    """The licence of all models; empty where they differ, or where one is not known."""
    first = models[0].licence if models else {}
    return first if all(its.licence == first for its in models) else {}


def _opening(record: Mapping[str, Any], models: Sequence[_Input]) -> str:
    has_base = "base" in record["sources"]
    count = len(models) - has_base
    what = ("adapter" if "result" in record else "model") + "s" * (count != 1)
    version = record["versions"]["model-merging"]
    text = f"Made of {count} {what}{' and the base' * has_base} by model-merging {version}."
    numbers = record.get("num_parameters", {})
    if numbers.get("merged"):
        rest = sum(its for kind, its in numbers.items() if kind != "merged")
        text += f" {numbers['merged']:,} parameters were merged, {rest:,} kept or copied."
    return text


def _options(method: str, record: Mapping[str, Any]) -> str:
    """All options, also those that were left at their defaults."""
    described = {field.name: field for field in explain.options_of(method)}
    if not described:
        return "It has no options."
    lines = ["| option | value | |", "| --- | --- | --- |"]
    defaults = explain.defaults_of(method)
    for name in described:
        value = record["options"].get(name, defaults.get(name))
        is_default = name in defaults and _plain(value) == _plain(defaults[name])
        lines.append(f"| `{name}` | {_cell(value)} | {'default' if is_default else ''} |")
    return "\n".join(lines)


def _inputs(sources: Mapping[str, Any], models: Sequence[_Input]) -> Iterator[str]:
    yield "| input | model | content | licence |"
    yield "| --- | --- | --- | --- |"
    named = "mergekit" not in sources  # there, labels are places
    for its in models:
        model = f"[{its.hub}](https://huggingface.co/{its.hub})" if its.hub else f"`{its.name}`, local"
        content = f"weights {_short(its.its['weights_hash'])}"
        if "commit" in its.its:
            content = f"commit {_short(its.its['commit'])}, {content}"
        yield f"| {f'`{its.label}`' if named else 'model'} | {model} | {content} | {its.licence_text} |"


def _licences(models: Sequence[_Input]) -> str:
    if _common_licence(models):
        return f"All inputs have the licence {models[0].licence_text}."
    unknown = sorted({its.name for its in models if not its.licence})
    if unknown:
        return (
            f"The licence of {_listed(unknown)} is not known: there is no model card that names it. Look it "
            "up before you pass this model on."
        )
    return "The licences of the inputs differ. See whether they allow what you want to do with this model."


def _statistics(sources: Mapping[str, Any]) -> Iterator[str]:
    """The curvatures and other statistics that entered."""
    entries = {
        label: its for label, its in sources.items() if isinstance(its, Mapping) and "estimator" in its
    }
    if not entries:
        return
    lines = ["| statistic | estimator | examples | of | factor |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| `{label}` | {its['estimator']} | {its['num_examples']:,} | weights {_short(its['model_hash'])} | "
        f"{its['scale']:g} |"
        for label, its in entries.items()
    ]
    yield "\n".join(lines)


def _reproduction(record: Mapping[str, Any]) -> str:
    """The file of arguments, with Hub ids, or places to fill in."""
    sources = record["sources"]
    if "mergekit" in sources:
        return (
            "`merging merge --config mergekit_config.yml --out merged`, with this file:\n\n"
            f"```yaml\n{_without_places(sources).strip()}\n```"
        )
    method = str(record["method"])
    arguments: dict[str, Any] = {"method": method}
    for label, its in sources.items():
        key, _, rest = label.partition("[")
        place: Any = _place(label, its)
        if "scale" in its:
            place = {"hessian": place, "scale": its["scale"]}
        if rest:
            arguments.setdefault(key, {})[rest[1:-2]] = place
        else:
            arguments[key] = place
    defaults = explain.defaults_of(method)
    arguments["options"] = {
        name: value
        for name, value in record["options"].items()
        if name not in defaults or _plain(value) != _plain(defaults[name])
    }
    if "result" in record:
        arguments["result"] = record["result"]
        arguments |= {"rank": record["rank"]} if "rank" in record else {}
        arguments["saved"] = record["saved"]["policy"]
    arguments |= {key: its for key in ("policy", "output") if (its := _changed(key, record.get(key, {})))}
    arguments["out"] = "merged"
    return (
        "`merging merge --config recipe.json`, with this file (`path/to/...` stands for the local folders "
        f"above):\n\n```json\n{json.dumps(arguments, indent=2)}\n```"
    )


def _place(label: str, its: Mapping[str, Any]) -> str:
    """Where an input comes from: a Hub id with its commit, or a path to fill in."""
    if "hub" in its:
        return f"{its['hub']}@{its['commit']}"
    key, _, rest = label.partition("[")
    if key in ("base", "models"):
        return f"path/to/{rest[1:-2] or key}"
    return f"path/to/{key}/{rest[1:-2]}" if rest else f"path/to/{key}"


def _without_places(sources: Mapping[str, Any]) -> str:
    """The mergekit file, with the names of local folders in place of their absolute paths."""
    text = str(sources["mergekit"])
    for its in sources.values():
        if _is_model(its) and "hub" not in its and Path(its["folder"]).is_absolute():
            text = text.replace(str(its["folder"]), f"path/to/{Path(its['folder']).name}")
    return text


def _changed(key: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that are not at their defaults."""
    from merging.merge.output_options import OutputOptions
    from merging.merge.policy import Policy

    defaults = _plain(dataclasses.asdict(Policy() if key == "policy" else OutputOptions()))
    return {name: value for name, value in values.items() if _plain(value) != defaults.get(name)}


def _checks(found: Mapping[str, Any]) -> Iterator[str]:
    """What ``merging verify`` found."""
    yield f"- {found['num_parameters']:,} parameters"
    if found["moved_share"] is not None:
        yield f"- {found['moved_share']:.1%} of them differ from the base"
        ratios = [its["norm_ratio"] for its in found["layers"].values() if "norm_ratio" in its]
        if ratios:
            yield f"- norms of the layers: {min(ratios):.3f} to {max(ratios):.3f} times those of the base"
    yield f"- tokenizer: {found['tokenizer']}"
    yield f"- forward pass: {found['forward']}"
    yield from (f"- **problem**: {problem}" for problem in found["problems"] or ())


def _cell(value: Any) -> str:
    """A value in a table; learned coefficients of every layer would fill pages."""
    text = json.dumps(value).replace("|", "\\|")
    return f"`{text}`" if len(text) <= _CELL_CHARACTERS else "in the file below"


def _plain(value: Any) -> Any:
    """As JSON gives it back: lists for tuples."""
    return json.loads(json.dumps(value))


def _short(text: str) -> str:
    return f"`{text.removeprefix('samples:')[:_SHOWN_CHARACTERS]}`"


def _listed(names: Sequence[str]) -> str:
    """E.g. "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
