"""One row for each known data set: where it lies, and what its columns and labels are called.

Label names are ours, not the source's: a head is shared by all data sets whose label names are equal, whether
a publisher wrote ``neg``, ``1`` or ``negative``.

Local rows start with ``local/``; what follows is a folder (with one file a split) or a file below the folder
that is given at download time. A local data set without a row of its own works too when its columns already
have our names; its labels are then named after their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from merging.errors import UnknownNameError
from merging.registry import unknown

SENTIMENT = ("negative", "positive")
DIGITS = tuple("0123456789")
LOCAL = "local/"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a data set is, and how its columns map to ours.

    Exactly one of ``hub``, ``local`` and ``digits`` is set.
    """

    task_type: str | None
    """What its columns suit; None for a local data set without a row."""
    hub: str | None = None
    """Hub id; with ``config`` and ``revision``, a commit."""
    config: str | None = None
    revision: str | None = None
    """Commit that is fetched unless another is asked for; None: what ``main`` is today, which is recorded."""
    local: str | None = None
    """Folder or file below the folder given at download time."""
    digits: str | None = None
    """Domain of the embedded handwritten digits; see ``data/digits.py``."""
    text: tuple[str, ...] = ("text",)
    """Text columns, joined by a space."""
    text_pair: str = "text_pair"
    image: str = "image"
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Further input columns: our name to the source's; see ``data/columns.py``."""
    label: str = "label"
    label_names: tuple[str, ...] | None = None
    """Names of classes 0, 1, ...; None keeps the source's names. Labels that are no classes have none."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """Our split names to the source's; empty takes all splits as they are named."""


_SPLITS_3 = {"train": "train", "validation": "validation", "test": "test"}
_SPLITS_2 = {"train": "train", "test": "test"}


def _reviews(local: str) -> Source:
    return Source(task_type="sequence_classification", local=local, label_names=SENTIMENT, splits=_SPLITS_3)


def _digits(domain: str) -> Source:
    return Source(task_type="image_classification", digits=domain, label_names=DIGITS, splits=_SPLITS_3)


_SOURCES: dict[str, Source] = {
    "imdb": Source(  # 25,000 / 25,000, each sorted by class
        task_type="sequence_classification",
        hub="stanfordnlp/imdb",
        revision="e6281661ce1c48d982bc483cf8a173c1bbeb5d31",
        label_names=SENTIMENT,
        splits=_SPLITS_2,
    ),
    "yelp_polarity": Source(  # 560,000 / 38,000
        task_type="sequence_classification",
        hub="fancyzhx/yelp_polarity",
        revision="bbf1c97a1f0cf005e5aded43839fd814654a1557",
        label_names=SENTIMENT,
        splits=_SPLITS_2,
    ),
    "rotten_tomatoes": Source(  # 8,530 / 1,066 / 1,066
        task_type="sequence_classification",
        hub="cornell-movie-review-data/rotten_tomatoes",
        revision="aa13bc287fa6fcab6daf52f0dfb9994269ffea28",
        label_names=SENTIMENT,
        splits=_SPLITS_3,
    ),
    "sst2": Source(  # 67,349 / 872; the labels of its test split are secret (-1)
        task_type="sequence_classification",
        hub="stanfordnlp/sst2",
        revision="8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb",
        text=("sentence",),
        label_names=SENTIMENT,
        splits={"train": "train", "validation": "validation"},
    ),
    "amazon_polarity": Source(  # 3,600,000 / 400,000
        task_type="sequence_classification",
        hub="fancyzhx/amazon_polarity",
        revision="9d9c45c18f8c3cf1b23a3c27917b60cbf28f3289",
        text=("title", "content"),
        label_names=SENTIMENT,
        splits=_SPLITS_2,
    ),
    "conll2003": Source(  # 14,041 / 3,250 / 3,453 sentences; entities in news, IOB2
        task_type="token_classification",
        hub="lhoestq/conll2003",
        inputs={"words": "tokens"},
        label="ner_tags",
        label_names=("O", *(f"{place}-{kind}" for kind in ("PER", "ORG", "LOC", "MISC") for place in "BI")),
        splits=_SPLITS_3,
    ),
    "stsb": Source(  # 5,749 / 1,500; likeness of two sentences, 0 to 5; its test labels are secret
        task_type="regression",
        hub="nyu-mll/glue",
        config="stsb",
        text=("sentence1",),
        text_pair="sentence2",
        splits={"train": "train", "validation": "validation"},
    ),
    "race": Source(  # 87,866 / 4,887 / 4,934; questions about articles with four answers
        task_type="multiple_choice",
        hub="ehovy/race",
        config="all",
        text=("article", "question"),
        inputs={"choices": "options"},
        label="answer",
        label_names=("A", "B", "C", "D"),
        splits=_SPLITS_3,
    ),
    "cifar10": Source(  # 50,000 / 10,000; its names are words, so also for clip_zero_shot
        task_type="image_classification",
        hub="uoft-cs/cifar10",
        image="img",
        splits=_SPLITS_2,
    ),
    "local/imdb": _reviews("imdb"),
    "local/yelp": _reviews("yelp"),
    "local/sst2": _reviews("sst2"),
    "local/rotten_tomatoes": _reviews("rotten_tomatoes"),
    "local/customer_reviews": _reviews("customer_reviews"),
    "local/amazon_apparel": _reviews("amazon_apparel"),
    "local/amazon_baby": _reviews("amazon_baby"),
    "local/amazon_books": _reviews("amazon_books"),
    "local/amazon_camera_photo": _reviews("amazon_camera_photo"),
    "local/amazon_dvd": _reviews("amazon_dvd"),
    "local/amazon_electronics": _reviews("amazon_electronics"),
    "local/amazon_health_personal_care": _reviews("amazon_health_personal_care"),
    "local/amazon_magazines": _reviews("amazon_magazines"),
    "local/amazon_music": _reviews("amazon_music"),
    "local/amazon_software": _reviews("amazon_software"),
    "local/amazon_sports_outdoors": _reviews("amazon_sports_outdoors"),
    "local/amazon_toys_games": _reviews("amazon_toys_games"),
    "local/amazon_video": _reviews("amazon_video"),
    "digits": _digits("clean"),
    "digits_rotation": _digits("rotation"),
    "digits_blur": _digits("blur"),
    "digits_shift": _digits("shift"),
    "digits_noise": _digits("noise"),
    "digits_shear": _digits("shear"),
}


def names() -> tuple[str, ...]:
    """Names of all rows, sorted."""
    return tuple(sorted(_SOURCES))


def load(name: str) -> Source:
    """Return the row of a data set; any other ``local/<path>`` is a data set whose columns have our names.

    Raises:
        UnknownNameError: no such row.
    """
    if name in _SOURCES:
        return _SOURCES[name]
    if name.startswith(LOCAL) and len(name) > len(LOCAL):
        return Source(task_type=None, local=name.removeprefix(LOCAL))
    raise UnknownNameError(
        f"{unknown('data source', name, _SOURCES)}. A folder or file of your own is local/<path>."
    )
