"""Where pieces are computed: the processor, or a GPU that is fed through pinned memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import local
from typing import TYPE_CHECKING, Any

from merging.errors import OptionError
from merging.sources import Source, for_computing, read_for_computing

if TYPE_CHECKING:
    from torch import Tensor

GPU_PIECE = 2**23
"""Elements that an elementwise method gets at a time on a GPU, where starting an operation takes as long as
some hundred thousand elements."""


class Processor:
    """Nothing has to be moved."""

    name = "cpu"
    piece: int | None = None
    """Elements of a piece; None: what fits into a processor's cache."""

    def read(self, source: Source, name: str, start: int, stop: int) -> tuple[Tensor, bool]:
        """Elements of a tensor, ready for computing, and whether they may be written into."""
        return read_for_computing(source, name, start, stop)

    def moved(self, value: Any) -> Any:
        """A tensor, or a dataclass of tensors, where it is computed with."""
        return value

    def on_host(self, tensor: Tensor) -> Tensor:
        """A result in the memory of the processor; valid until the thread asks for the next one."""
        return tensor

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Around everything that a thread does with one piece."""
        yield


class Gpu:
    """Each thread reads into pinned buffers, two in turn, and computes on a stream of its own.

    So one piece is read while another is copied and a third is computed, without any of them waiting.
    """

    piece: int | None = GPU_PIECE

    def __init__(self, device: str) -> None:
        """Begin with a device such as ``"cuda:1"``.

        Raises:
            OptionError: torch sees no such device.
        """
        import torch

        num_devices = torch.cuda.device_count()
        if (torch.device(device).index or 0) >= num_devices:
            raise OptionError(
                f"compute: device is {device!r}, but torch {torch.__version__} sees {num_devices} CUDA "
                "devices. Pass 'cpu', or install a CUDA build of torch on a machine with a GPU."
            )
        self.name = device
        self._thread = local()

    def read(self, source: Source, name: str, start: int, stop: int) -> tuple[Tensor, bool]:
        """As ``Processor.read``; narrow numbers are copied as they are, and widened on the device."""
        from merging.files.checkpoints import torch_dtype

        dtype = torch_dtype(source.tensors[name].dtype)
        read_into = getattr(source, "read_into", None)
        if read_into is None:
            piece = source.read_piece(name, start, stop)
            return for_computing(self._upload(piece.numel(), piece.dtype, lambda to: to.copy_(piece))), True
        fill = lambda to: read_into(name, start, stop, to)  # noqa: E731
        return for_computing(self._upload(stop - start, dtype, fill)), True

    def moved(self, value: Any) -> Any:
        """As ``Processor.moved``."""
        import torch

        if isinstance(value, torch.Tensor):
            return value.to(self.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return dataclasses.replace(value, **{key: self.moved(its) for key, its in fields.items()})
        return value

    def on_host(self, tensor: Tensor) -> Tensor:
        """As ``Processor.on_host``."""
        slot = self._slot("download", tensor.numel() * tensor.element_size())
        host = slot.memory[: tensor.numel() * tensor.element_size()].view(tensor.dtype)
        host.copy_(tensor.reshape(-1), non_blocking=True)
        self._synchronize()
        return host.view(tensor.shape)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """As ``Processor.at_work``: on the stream of the thread; all is done when the block ends."""
        import torch

        if not hasattr(self._thread, "stream"):
            self._thread.stream = torch.cuda.Stream(self.name)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._thread.stream):
            yield
            self._synchronize()

    def _upload(self, size: int, dtype: Any, fill: Callable[[Tensor], object]) -> Tensor:
        """Fill a pinned buffer, and begin to copy it to the device."""
        import torch

        turn = self._thread.turn = 1 - getattr(self._thread, "turn", 0)
        slot = self._slot(f"upload{turn}", size * dtype.itemsize)
        slot.wait()
        host = slot.memory[: size * dtype.itemsize].view(dtype)
        fill(host)
        tensor = torch.empty(size, dtype=dtype, device=self.name)
        tensor.copy_(host, non_blocking=True)
        slot.mark()
        return tensor

    def _slot(self, key: str, num_bytes: int) -> _Slot:
        """A buffer of this thread, at least so large."""
        slot: _Slot | None = getattr(self._thread, key, None)
        if slot is None or slot.memory.numel() < num_bytes:
            self._synchronize()  # nothing is copied from the one that is given up
            slot = self._new_slot(num_bytes)
            setattr(self._thread, key, slot)
        return slot

    def _new_slot(self, num_bytes: int) -> _Slot:
        import torch

        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        return _Slot(torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True), event)

    def _synchronize(self) -> None:
        import torch

        torch.cuda.current_stream(self.name).synchronize()


@dataclasses.dataclass(frozen=True)
class _Slot:
    """Pinned memory, and when the last copy from it is done."""

    memory: Tensor
    event: Any

    def wait(self) -> None:
        self.event.synchronize()

    def mark(self) -> None:
        self.event.record()


def open_device(name: str) -> Processor | Gpu:
    """Prepare a device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Raises:
        OptionError: torch sees no such device.
    """
    return Processor() if name == "cpu" else Gpu(name)
