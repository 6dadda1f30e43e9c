"""Data sets and models, pinned to what was got."""

from collections.abc import Iterator

from sisyphus import Job, Task, tk


class DownloadDataJob(Job):
    """Fetch one data set and write down its revision or content hash.

    Args:
        source: a row of ``merging/data/sources.py``, or ``"local/<path>"``.
        folder: for local sources, the folder they lie below. Give it a ``hash_overwrite``, so that its place
            is no part of the identity (see ``recipe.data.local``).
        revision: commit on the Hub; None: the one that the row pins.
        content_hash: fail unless the data are these.
    """

    def __init__(
        self,
        *,
        source: str,
        folder: tk.Path | None = None,
        revision: str | None = None,
        content_hash: str | None = None,
    ):
        from merging.data.sources import load
        from merging.errors import OptionError

        if (load(source).local is None) != (folder is None):
            raise OptionError(f"{source}: folder is for local/ sources, which need it; got {folder!r}.")
        self.source, self.folder = source, folder
        self.revision, self.content_hash = revision, content_hash
        self.rqmt = {"cpu": 1, "mem": 2, "time": 2}  # mem in GB, time in hours
        self.out_data = self.output_path("data", directory=True)

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from merging.data.download import download_data

        download_data(
            source=self.source,
            folder=self.folder,
            revision=self.revision,
            content_hash=self.content_hash,
            out=self.out_data,
        )


class DownloadModelJob(Job):
    """Fetch one model from the Hub.

    Args:
        model: Hub id.
        revision: branch, tag or commit.
    """

    def __init__(self, *, model: str, revision: str):
        self.model, self.revision = model, revision
        self.rqmt = {"cpu": 1, "mem": 2, "time": 2}  # mem in GB, time in hours
        self.out_model = self.output_path("model", directory=True)

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from merging.data.download import download_model

        download_model(model=self.model, revision=self.revision, out=self.out_model)
