"""The Hugging Face Hub: which commit a name stands for, and one clear error when it cannot be had."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from merging.errors import HubError

_COMMIT_CHARACTERS = 40
_TIMEOUT_S = 20.0

MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""What is fetched of a model; its repository may hold weights for other frameworks and duplicates besides."""


def resolve(name: str, revision: str | None, *, repo_type: Literal["dataset", "model"]) -> str:
    """Return the commit of a branch or tag; None is the main branch.

    Offline (``HF_HUB_OFFLINE``), a full commit stands for itself, so that the Hub cache alone is enough.

    Raises:
        HubError: no such id or revision, or no network.
    """
    from huggingface_hub import HfApi, is_offline_mode

    if is_offline_mode():
        if revision is not None and len(revision) == _COMMIT_CHARACTERS:
            return revision
        raise HubError(
            f"HF_HUB_OFFLINE is set: revision {revision!r} of {name!r} cannot be looked up. "
            f"Give a full commit ({_COMMIT_CHARACTERS} characters) that lies in the cache, or a local folder."
        )
    try:
        info = HfApi().repo_info(name, revision=revision, repo_type=repo_type, timeout=_TIMEOUT_S)
    except failures() as error:
        raise hub_error(name, error) from error
    return str(info.sha)


def model_folder(name: str, revision: str | None) -> tuple[Path, str]:
    """Fetch a model repository.

    Returns:
        Its folder in the Hub cache, and its commit.

    Raises:
        HubError: no such id or revision, or no network.
    """
    from huggingface_hub import snapshot_download

    commit = resolve(name, revision, repo_type="model")
    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=list(MODEL_FILES))), commit
    except failures() as error:
        raise hub_error(name, error) from error


def check_model(name: str) -> None:
    """Look a Hub id up once, where it is not in the cache; a folder is fine.

    transformers would try again and again, for the better part of a minute, before it says that there is no
    network.

    Raises:
        HubError: no such id, or no network.
    """
    if Path(name).is_dir():
        return
    from huggingface_hub import is_offline_mode, try_to_load_from_cache

    if not is_offline_mode() and try_to_load_from_cache(name, "config.json") is None:
        resolve(name, None, repo_type="model")


def failures() -> tuple[type[Exception], ...]:
    """What the Hub client raises when it cannot fetch something."""
    from huggingface_hub.errors import HfHubHTTPError

    transport = HfHubHTTPError.__mro__[1]  # of whatever HTTP library the client uses; not always an OSError
    return (OSError, ValueError, transport)


def hub_error(name: str, error: Exception) -> HubError:
    """Return the error for a Hub id that could not be fetched, with the ways out."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    cause = (
        "HF_HUB_OFFLINE is set, and it is not in the cache" if offline else f"{type(error).__name__}: {error}"
    )
    return HubError(
        f"{name!r} is no folder, and it cannot be fetched from the Hugging Face Hub "
        f"({' '.join(cause.split())[:300]}). "
        "Check the id and the network (HF_TOKEN for gated ones); without network, fetch it elsewhere, "
        "copy the Hub cache (HF_HOME) and set HF_HUB_OFFLINE=1, or give a local folder."
    )
