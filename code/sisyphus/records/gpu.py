"""GPU memory and use of a running task, as the driver says (NVML); nothing where there is no GPU."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Collection
from typing import Any

_GB = 1024.0**3


class GpuMeter:
    """Looks at the GPUs that this process was given, from time to time.

    The driver is asked for the first time when :meth:`sample` is called: short tasks never pay for it.

    Args:
        devices: as in CUDA_VISIBLE_DEVICES: indices or UUIDs, separated by commas; empty: there is none, and
            nothing is ever measured.
    """

    def __init__(self, devices: str) -> None:
        self._names = [
            name.strip() for name in devices.split(",") if name.strip() not in ("", "-1", "NoDevFiles")
        ]
        self._handles: list[Any] | None = None
        self._models: list[str] = []
        self._peak_gb = 0.0
        self._use_percent: list[float] = []

    @property
    def is_there(self) -> bool:
        """Whether there is something to look at."""
        return bool(self._names)

    def sample(self, pids: Collection[int]) -> None:
        """Look once.

        Args:
            pids: the processes of the task. Where the driver does not know them, as in a container, all
                memory that is in use on the devices counts.
        """
        if not self._names:
            return
        try:
            import pynvml
        except ImportError:
            logging.debug("nvidia-ml-py is not installed: GPU use is not recorded")
            self._names = []
            return
        try:
            if self._handles is None:
                self._open(pynvml)
            self._measure(pynvml, frozenset(pids))
        except pynvml.NVMLError as error:
            logging.debug("The driver says nothing of the GPUs: %s", error)
            self._names = []

    def _open(self, nvml: Any) -> None:
        nvml.nvmlInit()
        self._handles = [
            nvml.nvmlDeviceGetHandleByIndex(int(name))
            if name.isdecimal()
            else nvml.nvmlDeviceGetHandleByUUID(name)
            for name in self._names
        ]
        self._models = [str(nvml.nvmlDeviceGetName(handle)) for handle in self._handles]

    def _measure(self, nvml: Any, pids: frozenset[int]) -> None:
        used = 0.0
        percent = []
        for handle in self._handles or ():
            own = [
                process.usedGpuMemory
                for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
                if process.pid in pids and process.usedGpuMemory is not None
            ]
            used += sum(own) if own else nvml.nvmlDeviceGetMemoryInfo(handle).used
            try:
                percent.append(float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu))
            except nvml.NVMLError:  # a slice of a device (MIG) has no such counter
                continue
        self._peak_gb = max(self._peak_gb, used / _GB)
        if percent:
            self._use_percent.append(sum(percent) / len(percent))

    def summary(self) -> dict[str, Any]:
        """Return what was seen; empty if nothing was.

        Returns:
            ``devices`` (their models), ``peak_memory_gb`` (of all devices together), ``mean_use_percent`` (of
            time in which something ran on them); also for short tasks ``peak_allocated_gb``, what PyTorch
            allocated in this process, on the device that had most.
        """
        found: dict[str, Any] = {}
        if self._models:
            found["devices"] = list(self._models)
            found["peak_memory_gb"] = round(self._peak_gb, 3)
        if self._use_percent:
            found["mean_use_percent"] = round(sum(self._use_percent) / len(self._use_percent), 1)
        allocated = _allocated_by_torch()
        if allocated:
            found["peak_allocated_gb"] = round(allocated / _GB, 3)
        return found


def visible_devices(requested_gpus: float) -> str:
    """Return what this process may use: CUDA_VISIBLE_DEVICES, else as many devices as it asked for."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return named
    return ",".join(str(index) for index in range(int(requested_gpus)))


def _allocated_by_torch() -> int:
    """Largest memory that PyTorch held on one device, in bytes; it is not imported for this."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return 0
    return max(int(cuda.max_memory_allocated(index)) for index in range(cuda.device_count()))
