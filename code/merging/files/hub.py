"""The Hugging Face Hub: which commit a name stands for, models fetched and published, and one clear error
when that cannot be done."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Literal, NamedTuple

from merging.errors import HubError, OptionError

_COMMIT_CHARACTERS = 40
_TIMEOUT_S = 20.0

MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md")
"""What is fetched of a model; its repository may hold weights for other frameworks and duplicates besides."""

_PICKLED_FILES = ("pytorch_model*.bin", "adapter_model.bin")
"""Fetched where there are no safetensors files."""

_CACHED = re.compile(r"models--(?P<id>.+)/snapshots/(?P<commit>[0-9a-f]{40})")
_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")


class Identity(NamedTuple):
    """What a model is called on the Hub."""

    id: str
    commit: str


def identity(folder: str | os.PathLike[str]) -> Identity | None:
    """Return the Hub id and commit that a model folder was fetched from; None where it does not say."""
    place = Path(folder)
    found = _CACHED.search(place.absolute().as_posix())
    if found:
        return Identity(found["id"].replace("--", "/", 1), found["commit"])
    try:
        source = json.loads((place / "source.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not (isinstance(source, dict) and source.get("source") and source.get("revision")):
        return None
    return Identity(str(source["source"]), str(source["revision"]))


def is_id(name: str) -> bool:
    """Whether a text is meant as a Hub id, ``owner/name`` or ``owner/name@revision``, and not as a folder.

    Where there is a folder ``owner``, it is a path that does not exist.
    """
    return bool(_ID.fullmatch(name)) and not Path(name.partition("/")[0]).is_dir()


def fetched(name: str) -> str:
    """Return the folder of a model that is named by a Hub id; a folder stays as it is.

    Raises:
        HubError: no such id or revision, or no network.
    """
    if not is_id(name):
        return name
    model, _, revision = name.partition("@")
    return str(model_folder(model, revision or None)[0])


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


def model_folder(name: str, revision: str | None, *, pickled: bool = True) -> tuple[Path, str]:
    """Fetch a model repository.

    Args:
        name: Hub id.
        revision: commit, branch or tag; None is the main branch.
        pickled: whether to fetch PyTorch's own weight files where there are no safetensors files.

    Returns:
        Its folder in the Hub cache, and its commit.

    Raises:
        HubError: no such id or revision, or no network.
    """
    from huggingface_hub import snapshot_download

    commit = resolve(name, revision, repo_type="model")
    try:
        folder = Path(snapshot_download(name, revision=commit, allow_patterns=list(MODEL_FILES)))
        if pickled and not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, revision=commit, allow_patterns=list(_PICKLED_FILES)))
    except failures() as error:
        raise hub_error(name, error) from error
    return folder, commit


def check_push(name: str) -> None:
    """Refuse, before any work is done, what could not be uploaded at its end.

    Raises:
        OptionError: no id of a repository.
        HubError: offline, no token, or one that the Hub refuses.
    """
    from huggingface_hub import HfApi, is_offline_mode

    if not _ID.fullmatch(name) or "@" in name:
        raise OptionError(f"push_to_hub must be a Hub id such as 'you/model', got {name!r}.")
    if is_offline_mode():
        raise HubError(
            f"HF_HUB_OFFLINE is set: nothing can be uploaded to {name!r}. Unset it, or merge without "
            "--push-to-hub and upload later (`merging push`)."
        )
    try:
        HfApi().whoami()
    except failures() as error:
        raise HubError(
            f"the Hugging Face Hub does not let us upload to {name!r} ({_cause(error)}). Set HF_TOKEN to a "
            "token that may write, or log in (`hf auth login`), and check the network."
        ) from error


def push_model(folder: str | os.PathLike[str], name: str, *, private: bool) -> str:
    """Upload a model folder; makes the repository where there is none.

    Args:
        folder: all its files are uploaded, in one commit.
        name: Hub id.
        private: whether a new repository is private; an existing one stays what it is.

    Returns:
        The address of the commit.

    Raises:
        HubError: the upload failed; the folder is untouched.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name, folder_path=os.fspath(folder), commit_message="Upload a merged model"
        )
    except failures() as error:
        raise HubError(
            f"{folder} is complete, but could not be uploaded to {name!r} ({_cause(error)}). Check the "
            "network and whether your token may write there, then run "
            f"`merging push {folder} --push-to-hub {name}`."
        ) from error
    return str(commit.commit_url)


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
    cause = "HF_HUB_OFFLINE is set, and it is not in the cache" if offline else _cause(error)
    return HubError(
        f"{name!r} is no folder, and it cannot be fetched from the Hugging Face Hub "
        f"({cause}). "
        "Check the id and the network (HF_TOKEN for gated ones); without network, fetch it elsewhere, "
        "copy the Hub cache (HF_HOME) and set HF_HUB_OFFLINE=1, or give a local folder."
    )


def _cause(error: Exception) -> str:
    """An error on one line, not too long."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
