"""A finished job with all that it came from, as one folder that others can read: an RO-Crate.

The metadata follow RO-Crate 1.1 and the profile Process Run Crate 0.5
(https://w3id.org/ro/wfrun/process/0.5): each job is a CreateAction, with its class as instrument, arguments
and inputs as objects, outputs as results.

::

    ro-crate-metadata.json
    jobs/<job id>/           info, log.*, usage.*, arguments.json
    outputs/<job id>/        what it made; of the target, or of all jobs
"""

from __future__ import annotations

import json
import mimetypes
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sisyphus import global_settings as gs
from sisyphus.errors import SisyphusError
from sisyphus.explaining.described import Node, place_of
from sisyphus.explaining.saved_jobs import SavedJob
from sisyphus.explaining.siblings import Folders
from sisyphus.job_dir import JobDir
from sisyphus.records import output_hashes
from sisyphus.records.job_record import TaskRecord, read_records, wall_seconds

_PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
_TERMS = "https://w3id.org/ro/terms/workflow-run/context"
"""Where ``sha256`` and ``resourceUsage`` are defined."""

_KEPT = (gs.JOB_INFO, f"{gs.JOB_LOG}.", f"{gs.PLOGGING_FILE}.", f"{gs.ENGINE_SUBMIT}.", output_hashes.FILE)
"""Beginnings of the names of what is exported of a job folder, beside outputs."""


_NO_LICENCE = "No licence was chosen: ask whoever made this before you use it."


def export_job(
    job_id: str, directory: str, *, all_outputs: bool = False, licence: str = _NO_LICENCE
) -> list[str]:
    """Write the crate.

    Args:
        job_id: of a finished job.
        directory: is made; it must not exist.
        all_outputs: with the outputs of all jobs; else of the others only names, sizes and hashes.
        licence: how the folder may be used: the address of a licence, or a text.

    Returns:
        The ids of all jobs in it, dependencies first.

    Raises:
        SisyphusError: the directory exists, or the job is not finished.
    """
    if os.path.lexists(directory):
        raise SisyphusError(f"{directory} exists already. Name a folder that does not, it will be made.")
    if not _folder(job_id).is_finished():
        raise SisyphusError(f"{_folder(job_id).path} is not finished, so there is nothing to export yet.")
    folders = Folders()
    ids = _with_ancestors(job_id, folders)
    temporary = f"{directory}.{os.getpid()}.tmp"
    try:
        _Crate(temporary, job_id, all_outputs, licence).write(ids, folders)
        os.rename(temporary, directory)
    finally:
        if os.path.lexists(temporary):
            shutil.rmtree(temporary)
    return ids


def _folder(job_id: str) -> JobDir:
    return JobDir(os.path.join(gs.WORK_DIR, job_id))


# --- what a job came from ---


def _with_ancestors(job_id: str, folders: Folders) -> list[str]:
    """A job and all that it depends on, dependencies first, as the folders say."""
    ordered: dict[str, None] = {}
    seen = {job_id}
    stack: list[tuple[str, Iterator[str]]] = [(job_id, iter(creators(job_id, folders)))]
    while stack:
        current, waiting = stack[-1]
        above = next((creator for creator in waiting if creator not in seen), None)
        if above is None:
            ordered[current] = None
            stack.pop()
        else:
            seen.add(above)
            stack.append((above, iter(creators(above, folders))))
    return list(ordered)


def creators(job_id: str, folders: Folders) -> list[str]:
    """Return the ids of the jobs that made the inputs of a job: in its arguments, and linked."""
    found: set[str] = set()
    saved = folders.find(job_id)
    for node in saved.arguments.values() if saved else ():
        found |= _jobs_in(node)
    links = _folder(job_id).entry(gs.JOB_INPUT)
    for name in os.listdir(links) if os.path.isdir(links) else ():
        link = os.path.join(links, name)
        if os.path.islink(link):
            found.add(place_of(f"{os.readlink(link)}/{gs.JOB_OUTPUT}").job)
    return sorted(found - {"", job_id})


def _jobs_in(node: Node) -> set[str]:
    found = {node.job} if node.job else set()
    return found.union(*(_jobs_in(part) for part in node.parts.values()))


# --- the folder ---


class _Crate:
    def __init__(self, directory: str, target: str, all_outputs: bool, licence: str) -> None:
        from rocrate.rocrate import ROCrate

        self._directory = directory
        self._target = target
        self._all_outputs = all_outputs
        self._crate = ROCrate(version="1.1")
        self._crate.metadata.extra_contexts.append(_TERMS)
        self._crate.name = target
        self._crate.description = f"{target}, and all that it was made from."
        self._crate.root_dataset["conformsTo"] = {"@id": _PROFILE}
        self._add(_PROFILE, {"@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"})
        self._crate.license = licence
        if licence.startswith(("https://", "http://")):
            self._crate.license = self._add(licence, {"@type": "CreativeWork", "name": licence})
        self._outputs: dict[str, list[Any]] = {}
        """Entities of the outputs, by job."""

    def write(self, ids: Sequence[str], folders: Folders) -> None:
        actions = [self._job(job_id, folders) for job_id in ids]
        self._crate.root_dataset["mentions"] = actions
        self._crate.write(self._directory)

    def _add(self, identifier: str, properties: Mapping[str, Any]) -> Any:
        """An entity that is no file; the first one of a name counts."""
        from rocrate.model.contextentity import ContextEntity

        known = self._crate.dereference(identifier)
        return known or self._crate.add(ContextEntity(self._crate, identifier, properties=dict(properties)))

    def _job(self, job_id: str, folders: Folders) -> Any:
        """The action of a job, with its files."""
        saved = folders.find(job_id) or SavedJob(job_id)
        folder = _folder(job_id)
        records = read_records(folder)
        self._files(job_id, folder, saved)
        self._outputs[job_id] = list(self._results(job_id, folder))
        inputs = [
            entity for creator in creators(job_id, folders) for entity in self._outputs.get(creator, ())
        ]
        arguments = [
            self._value(f"#{job_id}/arguments/{name}", name, str(node))
            for name, node in sorted(saved.arguments.items())
        ]
        status = "Completed" if folder.is_finished() else "Failed"
        properties: dict[str, Any] = {
            "@type": "CreateAction",
            "name": job_id,
            "actionStatus": f"http://schema.org/{status}ActionStatus",
        }
        ended = [record.ended for record in records if record.ended is not None]
        if ended:
            properties["startTime"] = _iso(min(ended) - wall_seconds(records))
            properties["endTime"] = _iso(max(ended))
        action = self._add(f"#{job_id}", properties)
        action["instrument"] = self._software(saved, records)
        action["object"] = _compact(arguments + inputs)
        action["result"] = _compact(self._outputs[job_id])
        action["resourceUsage"] = _compact(list(self._usage(job_id, records)))
        return action

    def _value(self, identifier: str, name: str, value: object) -> Any:
        return self._add(identifier, {"@type": "PropertyValue", "name": name, "value": value})

    def _usage(self, job_id: str, records: Sequence[TaskRecord]) -> Iterator[Any]:
        for record in records:
            place = f"#{job_id}/usage/{record.task}.{record.task_id}"
            numbers = {
                "wall_time_s": record.wall_s,
                "cpu_time_s": record.cpu_s,
                "peak_memory_gb": record.peak_memory_gb,
                "host": record.host,
                **{f"gpu_{name}": value for name, value in record.gpu.items()},
            }
            for name, value in numbers.items():
                if value is not None:
                    yield self._value(f"{place}/{name}", f"{record.task}.{record.task_id} {name}", value)

    def _software(self, saved: SavedJob, records: Sequence[TaskRecord]) -> Any:
        """The class of a job at its commit, with the packages that its tasks used."""
        packages = {name: version for record in records for name, version in record.packages.items()}
        if records and records[-1].python:
            packages["Python"] = records[-1].python
        commits = {str(record.recipe.get("commit")) for record in records if record.recipe.get("commit")}
        version = ", ".join(sorted(commits)) or saved.commit
        properties: dict[str, Any] = {"@type": "SoftwareApplication", "name": saved.class_name}
        if version:
            properties["softwareVersion"] = version
            if any(record.recipe.get("dirty") for record in records):
                properties["description"] = "Files of the repository were changed since this commit."
        listed = ",".join(f"{name}-{packages[name]}" for name in sorted(packages))
        software = self._add(f"#{saved.class_name}@{version[:12]}/{listed}", properties)
        requirements = [
            self._add(
                f"#{name}-{number}",
                {"@type": "SoftwareApplication", "name": name, "softwareVersion": number},
            )
            for name, number in sorted(packages.items())
        ]
        software["softwareRequirements"] = _compact(requirements)
        return software

    def _files(self, job_id: str, folder: JobDir, saved: SavedJob) -> None:
        """Logs and the like, and the arguments as JSON."""
        from io import BytesIO

        for name, content in sorted(_records_in(folder)):
            self._crate.add_file(
                BytesIO(content), f"jobs/{job_id}/{name}", properties=_file(name, len(content))
            )
        if saved.arguments:
            plain = {name: node.as_json() for name, node in sorted(saved.arguments.items())}
            content = json.dumps(plain, indent=2, ensure_ascii=False).encode()
            name = "arguments.json"
            self._crate.add_file(
                BytesIO(content), f"jobs/{job_id}/{name}", properties=_file(name, len(content))
            )

    def _results(self, job_id: str, folder: JobDir) -> Iterator[Any]:
        """One entity for each file that a job made."""
        hashes = output_hashes.read_hashes(folder) or output_hashes.hash_outputs(folder)
        for path, digest in hashes.items():
            size = os.path.getsize(folder.entry(path)) if os.path.exists(folder.entry(path)) else None
            properties = {**_file(os.path.basename(path), size), "sha256": digest}
            place = f"{job_id}/{path.removeprefix(f'{gs.JOB_OUTPUT}/')}"
            if size is not None and (self._all_outputs or job_id == self._target):
                yield self._crate.add_file(folder.entry(path), f"outputs/{place}", properties=properties)
            else:
                yield self._add(f"#{place}", {"@type": "CreativeWork", **properties})


def _compact(values: list[Any]) -> Any:
    """A list of one is written as that one."""
    return values[0] if len(values) == 1 else values


def _file(name: str, size: int | None) -> dict[str, Any]:
    kind = "text/plain" if name.startswith(_KEPT) else mimetypes.guess_type(name)[0]
    properties = {"name": name, "encodingFormat": kind or "application/octet-stream"}
    return properties if size is None else {**properties, "contentSize": str(size)}


def _records_in(folder: JobDir) -> Iterator[tuple[str, bytes]]:
    """What a job folder says of how the job ran, also after cleaning."""
    names = folder.names()
    for name in names:
        if name.startswith(_KEPT):
            with open(folder.entry(name), "rb") as file:
                yield name, file.read()
    if gs.JOB_FINISHED_ARCHIVE in names:
        with tarfile.open(folder.entry(gs.JOB_FINISHED_ARCHIVE)) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.name.startswith(_KEPT) else None
                if content is not None and member.name not in names:
                    yield member.name, content.read()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
