"""What is done to managers, tasks and disks. Each fault takes back what it did, but for its victims."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import disks
import psutil
from project import Project


@dataclass
class Scene:
    """What a fault works on."""

    project: Project
    random: random.Random
    disk: disks.SmallDisk | None
    problems: list[str] = field(default_factory=list)
    """What must not happen, and did."""
    frozen: set[int] = field(default_factory=set)
    """Workers that were frozen for good: the manager will kill them."""


Fault = Callable[[Scene], bool]
"""Does its damage; False if there was nothing to damage just now."""


def _send(pid: int, number: signal.Signals, *, group: bool = False) -> bool:
    with suppress(ProcessLookupError):
        if group:
            os.killpg(os.getpgid(pid), number)
        else:
            os.kill(pid, number)
        return True
    return False


def _some_worker(scene: Scene) -> int | None:
    running = scene.project.running()
    return scene.random.choice(running).pid if running else None


def kill_manager(scene: Scene) -> bool:
    manager = scene.project.manager
    assert manager is not None
    done = _send(manager.pid, signal.SIGKILL)
    manager.wait()
    return done


def kill_managers_group(scene: Scene) -> bool:
    manager = scene.project.manager
    assert manager is not None
    done = _send(manager.pid, signal.SIGKILL, group=True)
    manager.wait()
    return done


def kill_worker(scene: Scene) -> bool:
    pid = _some_worker(scene)
    return pid is not None and _send(pid, signal.SIGKILL)


def kill_workers_group(scene: Scene) -> bool:
    pid = _some_worker(scene)
    return pid is not None and _send(pid, signal.SIGKILL, group=True)


def kill_manager_and_workers(scene: Scene) -> bool:
    """All at once; children of workers live on, and nobody is left who could end them."""
    for running in scene.project.running():
        _send(running.pid, signal.SIGKILL)
    return kill_manager(scene)


def kill_everything(scene: Scene) -> bool:
    """As when the power fails."""
    scene.project.kill_everything()
    return True


def kill_fork_server(scene: Scene) -> bool:
    manager = scene.project.manager
    assert manager is not None
    with suppress(psutil.Error):
        for child in psutil.Process(manager.pid).children():
            if "fork_server" in child.cmdline():
                return _send(child.pid, signal.SIGKILL)
    return False


def freeze_worker_for_a_moment(scene: Scene) -> bool:
    pid = _some_worker(scene)
    if pid is None or not _send(pid, signal.SIGSTOP):
        return False
    time.sleep(scene.random.uniform(0.1, 0.4))
    return _send(pid, signal.SIGCONT)


def freeze_worker(scene: Scene) -> bool:
    """For good: the manager has to notice."""
    pid = _some_worker(scene)
    if pid is None or not _send(pid, signal.SIGSTOP):
        return False
    scene.frozen.add(pid)
    return True


def thaw_what_cannot_resume(scene: Scene) -> None:
    """As a person would who reads that such a task hangs: the manager leaves it alone."""
    for running in scene.project.running():
        if running.pid in scene.frozen and "Once" in running.key:
            _send(running.pid, signal.SIGCONT)


def freeze_manager(scene: Scene) -> bool:
    """While it is frozen, a second one must not take over."""
    manager = scene.project.manager
    assert manager is not None
    if not _send(manager.pid, signal.SIGSTOP):
        return False
    refused = second_manager(scene)
    _send(manager.pid, signal.SIGCONT)
    return refused


def second_manager(scene: Scene) -> bool:
    """Must be refused, naming the first."""
    first = scene.project.manager
    assert first is not None
    if not _owns(scene, first.pid):
        return False
    offset = scene.project.log.stat().st_size
    second = scene.project.start()
    second.wait(timeout=60)
    said = scene.project.log_since(offset)
    if first.poll() is not None:
        return False  # it died or ended meanwhile, so the second one was right to work
    if second.returncode != 1 or f"process {first.pid} on {socket.gethostname()}" not in said:
        scene.problems.append(f"a second manager beside {first.pid} ended with {second.returncode}: {said}")
    return True


def two_managers_at_once(scene: Scene) -> bool:
    """Started in the same moment: one works, one is refused."""
    kill_manager(scene)
    offset = scene.project.log.stat().st_size
    managers = [scene.project.start(), scene.project.start()]
    deadline = time.monotonic() + 20
    while all(manager.poll() is None for manager in managers) and time.monotonic() < deadline:
        time.sleep(0.02)
    rest = [manager for manager in managers if manager.poll() is None]
    scene.project.manager = rest[0] if rest else None
    said = scene.project.log_since(offset)
    ended_itself = "jobs ran" in said  # its summary: little was left to do, and the other one came after it
    refused = said.count("another manager")
    if len(rest) > 1 or (rest and refused != 1 and not ended_itself):
        scene.problems.append(f"of two managers {len(rest)} work, {refused} were refused: {said}")
    for manager in rest[1:]:
        manager.kill()
    return True


def interrupt_manager(scene: Scene) -> bool:
    """Ctrl-C, or what a queueing system sends: it must leave its tasks alone, and say so."""
    manager = scene.project.manager
    assert manager is not None
    if not _owns(scene, manager.pid):
        return False
    offset = scene.project.log.stat().st_size
    before = scene.project.running()
    _send(manager.pid, scene.random.choice([signal.SIGINT, signal.SIGTERM]))
    try:
        code = manager.wait(timeout=20)
    except subprocess.TimeoutExpired:
        code = None
    said = scene.project.log_since(offset)
    if code == 130 and "running jobs go on" not in said:
        scene.problems.append(f"an interrupted manager did not say that tasks go on: {said}")
    was_doomed = ["doomed", "manager", str(manager.pid)] in [words[:3] for words in scene.project.lines()]
    if code not in (130, 0, 1) and not was_doomed:  # 0 and 1: it had just ended by itself
        scene.problems.append(f"an interrupted manager ended with {code}: {said}")
    dead = [each for each in before if not psutil.pid_exists(each.pid) and each.pid not in scene.frozen]
    ended = {(words[1], words[2]) for words in scene.project.lines() if words[0] in ("end", "doomed")}
    lost = [each for each in dead if (each.key, str(each.pid)) not in ended and "Flaky" not in each.key]
    if code == 130 and lost:
        scene.problems.append(f"Ctrl-C took {lost} along")
    return True


def fill_disk(scene: Scene) -> bool:
    if scene.disk is None:
        return False
    scene.disk.fill()
    time.sleep(scene.random.uniform(0.1, 0.5))
    scene.disk.free()
    return True


def read_only_folder(scene: Scene) -> bool:
    """The folder of a job, or of a part of it, that can be read but not changed."""
    folders = [path for path in (scene.project.path / "work/jobs").glob("*") if path.is_dir()]
    if not folders:
        return False
    folder = scene.random.choice(folders)
    inner = folder / scene.random.choice([".", "engine", "output"])
    victim = inner if inner.is_dir() else folder
    if not disks.freeze_folder(victim):
        return False
    time.sleep(scene.random.uniform(0.1, 0.4))
    disks.thaw_folders(scene.project.path / "work/jobs")  # all: it may have been moved aside meanwhile
    return True


def _owns(scene: Scene, pid: int) -> bool:
    """Wait until a manager says in the work folder that it works there."""
    record: Path = scene.project.path / "work/.manager.json"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and scene.project.manager_runs():
        with suppress(FileNotFoundError):
            if f'"pid": {pid}' in record.read_text():
                return True
        time.sleep(0.02)
    return False


ALL: dict[str, tuple[Fault, int]] = {
    "manager killed": (kill_manager, 4),
    "manager's process group killed": (kill_managers_group, 2),
    "worker killed": (kill_worker, 5),
    "worker's process group killed": (kill_workers_group, 3),
    "manager and workers killed": (kill_manager_and_workers, 3),
    "everything killed": (kill_everything, 2),
    "fork server killed": (kill_fork_server, 2),
    "worker frozen for a moment": (freeze_worker_for_a_moment, 2),
    "worker frozen for good": (freeze_worker, 1),
    "manager frozen, a second one started": (freeze_manager, 1),
    "second manager started": (second_manager, 1),
    "two managers started at once": (two_managers_at_once, 1),
    "manager interrupted": (interrupt_manager, 2),
    "disk full": (fill_disk, 3),
    "job folder read-only": (read_only_folder, 3),
}
"""Each fault by name, and how often it is chosen."""
