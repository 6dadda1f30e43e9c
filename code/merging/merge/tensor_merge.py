"""Run a merge method over tensors that are read by name, piece by piece, on several threads."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from merging import methods
from merging.errors import OptionError
from merging.files.checkpoints import FLOAT_DTYPES, TensorInfo, torch_dtype
from merging.merge.compute_options import ComputeOptions
from merging.merge.cost import CHILD_BYTES, LOOKUP_BYTES, PIECE, PROCESS_BYTES, Cost, num_cpus
from merging.merge.devices import Gpu, Processor, open_device
from merging.merge.layers import JointLayer, joint_layers
from merging.merge.processes import can_fork, map_in_processes
from merging.merge.tensor_plan import Plan
from merging.merge.workers import Workers
from merging.methods._seam import Granularity
from merging.methods._seam import Parameter as Where
from merging.methods._weights import WeightRange
from merging.schedules import Resolver
from merging.sources import Source, check_finite
from merging.sources.statistics import HessianSource, Statistic

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Input = Source | Statistic | Mapping[str, Source] | Mapping[str, Statistic]
Sink = Callable[[str, int, "Tensor"], None]
"""Takes a piece of the output: name, first element, values in the stored dtype. Called on several threads."""

SHARED_ELEMENTS = 2**24
"""From so many elements on, a merge into files is shared between processes."""


@dataclass(frozen=True)
class _Inputs:
    """What is behind the inputs of a method."""

    module: ModuleType
    by_key: Mapping[str, Input]
    template: Source
    """Gives the shape that all tensors get."""
    resolver: Resolver
    transposed: Collection[str] = ()
    device: Processor | Gpu = field(default_factory=Processor)


class InputPiece(Mapping[str, Any]):
    """The inputs of a method for one piece of a parameter; read when they are asked for."""

    def __init__(self, inputs: _Inputs, name: str, start: int, stop: int, shape: tuple[int, ...]) -> None:
        """Stand for the elements ``start:stop`` of a parameter, counted row by row, in the given shape."""
        self._inputs = inputs
        self._shape = shape
        self._read_before: dict[str, Any] | None = None
        self.has_curvature = False
        """Whether some Hessian is known to be above zero everywhere in this piece."""
        self.start, self.stop = start, stop
        self.parameter = Where(
            name,
            inputs.template.tensors[name].shape,
            start=start,
            size=stop - start,
            transposed=name in inputs.transposed,
        )

    @property
    def num_bytes(self) -> int:
        """About what is held while this piece is merged: inputs, result, and as much again on the way."""
        num_tensors, statistics = 1, 0
        for source in (its for given in self._inputs.by_key.values() for its in _sources(given)):
            if isinstance(source, Statistic):
                statistics += _statistic_bytes(source, self.parameter)
            else:
                num_tensors += 1
        wide = self._inputs.template.tensors[self.parameter.name].dtype == "F64"
        held = 2 * (num_tensors * (8 if wide else 4) * (self.stop - self.start) + statistics)
        num_models = sum(1 for _ in _sources(self._inputs.by_key["models"]))
        return held + methods.working_bytes(self._inputs.module, self.parameter.shape, num_models)

    @property
    def options(self) -> Any:
        """The method's options for this parameter."""
        return self._inputs.resolver.at(self.parameter.name)

    def at_work(self) -> AbstractContextManager[None]:
        """Around everything that a thread does with this piece."""
        return self._inputs.device.at_work()

    def keep(self) -> None:
        """Read every input only once: the piece is a whole parameter, which is measured and then merged."""
        self._read_before = {}

    def __getitem__(self, key: str) -> Any:
        if self._read_before is not None and key in self._read_before:
            return self._read_before[key]
        source = self._inputs.by_key[key]
        if isinstance(source, Mapping):
            value: Any = {task: self._value(its) for task, its in source.items()}
        else:
            value = self._value(source)
        if self._read_before is not None:
            self._read_before[key] = value
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._inputs.by_key)

    def __len__(self) -> int:
        return len(self._inputs.by_key)

    def _value(self, source: Source | Statistic) -> Any:
        if isinstance(source, Statistic):
            return self._inputs.device.moved(source.of(self.parameter.name))
        return self._read(source)

    def _read(self, source: Source) -> Tensor:
        """One tensor or piece, ready for computing.

        Rows that the source lacks (``Policy.rows``) are as in the template, with no curvature; surplus rows
        are left out. Both are at the end, row by row. A parameter that no Hessian holds has no curvature.
        """
        import torch

        name, template, device = self.parameter.name, self._inputs.template, self._inputs.device
        if name not in source.tensors:  # frozen in training: a Hessian has no such parameter
            return torch.zeros(self._shape, device=device.name)
        end = min(self.stop, source.tensors[name].num_elements)
        again = "Train or download"
        stored = source.stored if isinstance(source, HessianSource) else source
        tensor, is_own = device.read(stored, name, min(self.start, end), end)
        if isinstance(source, HessianSource):
            again = "Estimate"
            tensor, lowest = source.scaled(name, tensor, is_own=is_own)
            self.has_curvature |= lowest > 0 and end == self.stop
        if end < self.stop:
            missing, _ = device.read(template, name, max(self.start, end), self.stop)
            if isinstance(source, HessianSource):
                missing = torch.zeros_like(missing)
            tensor = torch.cat([tensor, missing])
        check_finite(tensor, name, source.label, f"{again} it again.")
        return tensor.view(self._shape)


class LayerPiece(InputPiece):
    """The inputs of a method for weight and bias of a linear layer, as one matrix."""

    def __init__(self, inputs: _Inputs, layer: JointLayer) -> None:
        """Stand for the whole layer; the weight gives its name."""
        size = math.prod(layer.shape)
        super().__init__(inputs, layer.weight, 0, size, layer.shape)
        self.parameter = Where(layer.weight, layer.shape, size=size)
        self.layer = layer
        infos = {name: inputs.template.tensors[name] for name in (layer.weight, layer.bias)}
        self._parts = [
            InputPiece(inputs, name, 0, info.num_elements, info.shape) for name, info in infos.items()
        ]

    def _value(self, source: Source | Statistic) -> Any:
        if isinstance(source, Statistic):
            return self._inputs.device.moved(source.of_layer(self.layer.weight))
        weight, bias = (part._read(source) for part in self._parts)
        self.has_curvature = all(part.has_curvature for part in self._parts)
        return self.layer.join(weight, bias)


class InputPieces:
    """Pieces of one parameter, or of the whole model, that several threads may work at."""

    def __init__(self, pieces: Callable[[], Iterable[InputPiece]], workers: Workers | None = None) -> None:
        """Stand for what ``pieces`` makes each time it is called; without workers, this thread does all."""
        self._pieces = pieces
        self._workers = workers

    def __iter__(self) -> Iterator[InputPiece]:
        return iter(self._pieces())

    def map(self, function: Callable[[InputPiece], T]) -> list[T]:
        """``function`` of every piece, in order."""
        workers = self._workers
        if workers is None:
            return [function(piece) for piece in self]

        def claimed(piece: InputPiece) -> T:
            with workers.claim(piece.num_bytes), piece.at_work():
                return function(piece)

        return workers.map(claimed, self)


class SharedPieces(InputPieces):
    """Pieces of a large model that several processes work at."""

    def __init__(self, pieces: Callable[[], Iterable[InputPiece]], num_processes: int) -> None:
        """Stand for what ``pieces`` makes each time it is called."""
        super().__init__(pieces)
        self._num_processes = num_processes

    def map(self, function: Callable[[InputPiece], T]) -> list[T]:
        """``function`` of every piece, in order; what it changes in memory may be lost."""
        pieces = list(self)

        def work(share: Sequence[int]) -> dict[int, T]:
            return {number: function(pieces[number]) for number in share}

        sizes = [piece.parameter.size for piece in pieces]
        found: dict[int, T] = {}
        for results in map_in_processes(work, range(len(pieces)), sizes, self._num_processes):
            found.update(results)
        return [found[number] for number in range(len(pieces))]


@dataclass
class Counted:
    """What a merge says of the parameters that it has given so far."""

    num_without_curvature: int = 0
    """Merged elements in which every Hessian is zero; tied tensors count once."""
    weights: WeightRange = field(default_factory=WeightRange)
    """Combination weights, of methods that tell them."""
    reports: dict[str, dict[str, float | str]] = field(default_factory=dict)
    """What the method reported, by parameter."""

    def add(self, other: Counted) -> None:
        """Count what another thread has counted."""
        self.num_without_curvature += other.num_without_curvature
        self.weights.add(other.weights)
        for name, values in other.reports.items():
            self.reports.setdefault(name, {}).update(values)

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "num_without_curvature": self.num_without_curvature,
            "weights": {task: list(ends) for task, ends in self.weights.by_task.items()},
            "reports": self.reports,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Counted:
        """What ``as_json`` gave."""
        counted = cls(stored["num_without_curvature"], reports=stored["reports"])
        counted.weights.by_task = {task: (low, high) for task, (low, high) in stored["weights"].items()}
        return counted


class TensorMerge:
    """One merge in progress: gives the output piece by piece, and counts on the way."""

    def __init__(
        self,
        module: ModuleType,
        resolver: Resolver,
        plan: Plan,
        *,
        template: Source,
        models: Mapping[str, Source],
        inputs: Mapping[str, Input],
        label_rows: Mapping[str, Sequence[int]] | None = None,
        transposed: Collection[str] = (),
        looked_up: bool = False,
        dtype: str | None = None,
        compute: ComputeOptions | None = None,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            module: the method.
            resolver: its options by parameter.
            plan: what happens to each tensor.
            template: gives shapes and dtypes, and what is copied.
            models: by task; for what is averaged whatever the method.
            inputs: by parameter of the method's ``merge``.
            label_rows: see ``Policy``.
            transposed: parameters that are stored as (inputs, outputs).
            looked_up: transformers was asked for them, and takes its memory.
            dtype: of the merged tensors, e.g. "BF16"; None: as in the template.
            compute: threads and memory.
        """
        self._module = module
        self._resolver = resolver
        self._plan = plan
        self._template = template
        self._models = models
        self._compute = compute or ComputeOptions()
        self._device = open_device(self._compute.device)
        self._inputs = _Inputs(module, inputs, template, resolver, transposed, self._device)
        self._label_rows = label_rows or {}
        self._dtype = dtype
        self._takes = frozenset(inspect.signature(module.merge).parameters)
        self.counted = Counted()
        """What is known of the tensors given so far."""
        curvatures = [key for key, value in inputs.items() if "hessian" in key]
        self._curvatures = curvatures
        sources = [its for key in curvatures for its in _sources(inputs[key])]
        self.not_in_hessians = tuple(
            name for name in plan.merged if sources and not any(name in its.tensors for its in sources)
        )
        """Merged tensors that no Hessian holds, such as frozen ones; they count as without curvature."""
        self._counting = Lock()
        self._process_bytes = PROCESS_BYTES + (LOOKUP_BYTES if looked_up else 0)
        self._max_bytes = self._room()
        self._kinds = {name: kind for kind in ("copied", "heads", "buffers") for name in getattr(plan, kind)}

    @cached_property
    def _layers(self) -> dict[str, JointLayer]:
        """Weights that are merged as one with their biases: where the curvature is of both, and both have the
        same options."""
        merged, at = {*self._plan.merged} - {*self._plan.tied.values()}, self._resolver.at
        given = (its for value in self._inputs.by_key.values() for its in _sources(value))
        statistics = [its for its in given if isinstance(its, Statistic)]
        found = joint_layers(statistics, sorted(merged), self._template.tensors)
        return {name: its for name, its in found.items() if at(name) == at(its.bias)}

    @cached_property
    def _weights(self) -> dict[str, str]:
        """The weight that a bias is merged with."""
        return {its.bias: weight for weight, its in self._layers.items()}

    @property
    def _parameters(self) -> Iterator[str]:
        """What the method merges, one after another."""
        return (name for name in self._plan.merged if name not in self._weights)

    def _units(self, names: Iterable[str]) -> list[list[str]]:
        """Names of the output, together where they are computed together."""
        units: dict[str, list[str]] = {}
        for name in names:
            units.setdefault(self._weights.get(name, name), []).append(name)
        return list(units.values())

    @cached_property
    def summary(self) -> Any:
        """Whole-model numbers of the method, or None; whoever asks first waits until they are taken."""
        return self._summarize(num_processes=1)

    def _summarize(self, num_processes: int) -> Any:
        if not hasattr(self._module, "summarize"):
            return None

        def pieces() -> Iterator[InputPiece]:
            return (piece for name in self._parameters for piece in self._pieces(name))

        is_shared = num_processes > 1
        with self._workers(1 if is_shared else None) as workers:
            parameters = SharedPieces(pieces, num_processes) if is_shared else InputPieces(pieces, workers)
            return self._module.summarize(parameters, self._resolver.schedule.common)

    @cached_property
    def infos(self) -> dict[str, TensorInfo]:
        """Shape and dtype of every tensor of the output, by name."""
        return {name: self._info(name) for name in self._plan.names}

    def tensor(self, name: str) -> Tensor:
        """One tensor of the output.

        Raises:
            CheckpointError: an input or the result has NaN or infinite values.
        """
        return self.tensors([name])[name]

    def tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Several tensors of the output, by name; see ``tensor``."""
        import torch

        infos = {name: self.infos[name] for name in names}
        merged = {
            name: torch.empty(info.num_elements, dtype=torch_dtype(info.dtype))
            for name, info in infos.items()
        }

        def keep(name: str, start: int, piece: Tensor) -> None:
            merged[name][start : start + piece.numel()] = piece.reshape(-1)

        self.run(merged, keep)
        return {name: tensor.reshape(infos[name].shape) for name, tensor in merged.items()}

    def run(self, names: Iterable[str], sink: Sink) -> None:
        """Compute tensors of the output, and give their pieces to ``sink``, on several threads.

        Reading, arithmetic and what the sink does overlap. A piece is begun only when a thread is free, so
        that memory stays bounded.

        Raises:
            CheckpointError: an input or the result has NaN or infinite values.
        """
        self.summary  # noqa: B018 - taken before the first tensor
        with self._workers() as workers:
            workers.map(lambda unit: self._unit(unit, sink, workers), self._units(names))

    def run_shared(self, names: Iterable[str], sink: Sink) -> None:
        """As ``run``, for a sink that several processes may call, such as one that writes into a file.

        Large models are shared out between processes: two threads in pieces that stay in a processor's cache
        wait for the interpreter's lock half of the time.

        Raises:
            CheckpointError: an input or the result has NaN or infinite values.
        """
        units = self._units(names)
        sizes = [sum(self.infos[name].num_elements for name in unit) for unit in units]
        num_processes = self._num_processes(sum(sizes), len(units))
        if num_processes == 1:
            self.run(itertools.chain(*units), sink)
            return
        if "summary" not in self.__dict__:  # taken once, for all processes, and by all of them
            self.summary = self._summarize(num_processes)
        before = self.counted, self._compute, self._max_bytes

        def work(share: Sequence[list[str]]) -> Counted:
            self.counted, self._compute = Counted(), dataclasses.replace(self._compute, num_threads=1)
            if self._max_bytes is not None:
                self._max_bytes = self._share_of_room(num_processes)
            self.run(itertools.chain(*share), sink)
            return self.counted

        try:
            found = map_in_processes(work, units, sizes, num_processes)
        finally:
            self.counted, self._compute, self._max_bytes = before
        for counted in found:
            self.counted.add(counted)

    def _num_processes(self, num_elements: int, num_units: int) -> int:
        """How many processes are worth their start, and fit into the memory that is allowed."""
        if self._device.piece is not None or not can_fork() or num_elements < SHARED_ELEMENTS:
            return 1
        wanted = min(self._compute.num_threads or num_cpus(), num_units)
        if self._max_bytes is None:
            return wanted
        needed = max((piece.num_bytes for piece in self._first_pieces()), default=0)
        return max((n for n in range(1, wanted + 1) if self._share_of_room(n) >= needed), default=1)

    def _share_of_room(self, num_processes: int) -> int:
        assert self._max_bytes is not None
        return (self._max_bytes - (num_processes - 1) * CHILD_BYTES) // num_processes

    def _unit(self, unit: Sequence[str], sink: Sink, workers: Workers) -> None:
        """Compute one tensor of the output, or what is computed together of a layer."""
        name = unit[0]
        kept = self._weights.get(name, self._plan.tied.get(name, name))
        kind = self._kinds.get(kept)
        if kind == "copied":
            self._copy(name, kept, sink)
        elif kind in ("heads", "buffers"):
            with self._device.at_work():
                merged = self._merge_head(kept) if kind == "heads" else self._average(kept)
                self._give(name, kept, 0, merged, sink)
        else:
            pieces = list(self._pieces(kept))
            arguments: dict[str, Any] = {}
            if hasattr(self._module, "measure"):
                if len(pieces) == 1:
                    pieces[0].keep()
                measured = self._module.measure(InputPieces(lambda: pieces, workers), pieces[0].options)
                arguments = {"measure": measured} if "measure" in self._takes else {}

            def merge(piece: InputPiece) -> None:
                with workers.claim(piece.num_bytes), piece.at_work():
                    self._merge(unit, piece, arguments, sink)

            workers.map(merge, pieces)

    def _copy(self, name: str, kept: str, sink: Sink) -> None:
        """Pass on a tensor of the template as it is."""
        size = self._template.tensors[kept].num_elements
        for start in range(0, size, PIECE):
            sink(name, start, self._template.read_piece(kept, start, min(start + PIECE, size)))

    def _merge(
        self, unit: Sequence[str], piece: InputPiece, arguments: Mapping[str, Any], sink: Sink
    ) -> None:
        """Run the method on one piece, and pass on what was asked for of it."""
        counted = Counted()
        inputs: dict[str, Any] = dict(piece)
        if piece.parameter.name in unit:  # tied tensors count once
            counted.num_without_curvature = self._count_without_curvature(piece, inputs)
        reported: dict[str, float | str] = {}
        offered = {
            "summary": self.summary,
            "parameter": piece.parameter,
            "watch": counted.weights,
            "report": reported.__setitem__,
        }
        inputs |= {key: value for key, value in offered.items() if key in self._takes}
        result: Tensor = self._module.merge(**inputs, **arguments, options=piece.options)
        if isinstance(piece, LayerPiece):
            reported["bias"] = piece.layer.bias
            for name, part in piece.layer.split(result).items():
                if name in unit:
                    self._give(name, name, 0, part, sink)
        else:
            self._give(unit[0], piece.parameter.name, piece.start, result, sink)
        if reported:
            counted.reports[piece.parameter.name] = reported
        with self._counting:
            self.counted.add(counted)

    def _give(self, name: str, kept: str, start: int, values: Tensor, sink: Sink) -> None:
        """Pass on a piece of the result in the dtype of the output, if it is finite there."""
        stored = values.to(torch_dtype(self.infos[name].dtype))
        check_finite(stored, kept, "merged model", f"Its dtype is {stored.dtype}; check the options.")
        sink(name, start, self._device.on_host(stored))

    def _pieces(self, name: str) -> Iterator[InputPiece]:
        """A parameter as a whole, or in pieces of elements or rows; weight and bias where they are one."""
        if name in self._layers:
            yield LayerPiece(self._inputs, self._layers[name])
            return
        shape = self._template.tensors[name].shape
        size = self._template.tensors[name].num_elements
        granularity, most = self._granularity(name), self._device.piece or PIECE
        if granularity == "elements":
            for start in range(0, size, most) if size else (0,):
                stop = min(start + most, size)
                yield InputPiece(self._inputs, name, start, stop, (stop - start,))
        elif granularity == "rows" and len(shape) > 1 and size and name not in self._inputs.transposed:
            length = size // shape[0]
            step = max(1, most // length)
            for row in range(0, shape[0], step):
                end = min(row + step, shape[0])
                yield InputPiece(self._inputs, name, row * length, end * length, (end - row, *shape[1:]))
        else:
            yield InputPiece(self._inputs, name, 0, size, shape)

    def _granularity(self, name: str) -> Granularity:
        if not hasattr(self._module, "granularity"):
            return "parameter"
        found: Granularity = self._module.granularity(self._resolver.at(name))
        return found

    def _workers(self, num_threads: int | None = None) -> Workers:
        return Workers(num_threads or self._compute.num_threads, max_bytes=self._max_bytes)

    def cost(self) -> Cost:
        """Memory, disk and reading that this merge will take; from headers."""
        sizes = sorted((piece.num_bytes for piece in self._first_pieces()), reverse=True)
        num_threads = self._compute.num_threads or num_cpus()
        at_once = sum(sizes[:num_threads])
        if self._max_bytes is not None:
            at_once = min(at_once, self._max_bytes)
        sources = [its for given in self._inputs.by_key.values() for its in _sources(given)]
        stored = [its.tensors for its in sources if not isinstance(its, Statistic)]
        num_bytes = sum(
            infos[name].num_bytes for infos in stored for name in self._plan.merged if name in infos
        )
        num_passes = 1 + hasattr(self._module, "summarize") + hasattr(self._module, "measure")
        return Cost(
            memory_bytes=self._process_bytes + at_once,
            read_bytes=num_passes * num_bytes,
            written_bytes=sum(info.num_bytes for info in self.infos.values()),
        )

    def _first_pieces(self) -> Iterator[InputPiece]:
        """One of each merged parameter; no other piece of it is larger."""
        return (next(self._pieces(name)) for name in self._parameters)

    def _room(self) -> int | None:
        """Bytes that pieces may take at a time; None: no limit.

        Raises:
            OptionError: a piece that cannot be cut further does not fit.
        """
        limit = self._compute.max_memory_bytes
        if limit is None:
            return None
        largest = max(self._first_pieces(), key=lambda piece: piece.num_bytes, default=None)
        needed = self._process_bytes + (0 if largest is None else largest.num_bytes)
        if needed > limit:
            what = "imports" if largest is None else f"{largest.parameter.name!r} {largest.parameter.shape}"
            raise OptionError(
                f"compute: max_memory must be at least {_mib(needed)}MiB for this merge, got "
                f"{self._compute.max_memory!r}: {what} takes {_mib(needed - self._process_bytes)} MiB at a "
                f"time, Python and torch {_mib(self._process_bytes)} MiB. Raise it, or choose a method that "
                "merges parameters piece by piece."
            )
        return limit - self._process_bytes

    def _info(self, name: str) -> TensorInfo:
        kept = self._plan.tied.get(name, name)
        info = self._template.tensors[kept]
        if self._dtype is None or info.dtype not in FLOAT_DTYPES or kept in self._plan.copied:
            return info
        return TensorInfo(self._dtype, info.shape)

    def _count_without_curvature(self, piece: InputPiece, inputs: Mapping[str, Any]) -> int:
        """Elements in which every Hessian is zero; 0 for methods without Hessians."""
        if not self._curvatures or piece.has_curvature:
            return 0
        curvatures = [its for key in self._curvatures for its in _sources(inputs[key])]
        total: Tensor = curvatures[0]
        for curvature in curvatures[1:]:
            total = total + curvature  # none is below zero
        return total.numel() - int(total.count_nonzero())

    def _whole_models(self, name: str) -> dict[str, Tensor]:
        inputs = _Inputs(
            self._module, {"models": self._models}, self._template, self._resolver, device=self._device
        )
        info = self._template.tensors[name]
        models: dict[str, Tensor] = InputPiece(inputs, name, 0, info.num_elements, info.shape)["models"]
        return models

    def _average(self, name: str) -> Tensor:
        """The mean over the models."""
        import torch

        return torch.stack(list(self._whole_models(name).values())).mean(0)

    def _merge_head(self, name: str) -> Tensor:
        """Each row is the mean over the models that know its label; a row that nobody knows is 0."""
        import torch

        models = self._whole_models(name)
        total = torch.zeros_like(next(iter(models.values())))
        num_owners = torch.zeros(len(total), dtype=total.dtype, device=total.device)
        for task, model in models.items():
            rows = sorted(set(self._label_rows[task]))
            if rows and not 0 <= rows[0] <= rows[-1] < len(model):
                raise OptionError(
                    f"policy: label_rows[{task!r}] is {list(self._label_rows[task])}, but {name!r} has "
                    f"{len(model)} rows."
                )
            total[rows] += model[rows]
            num_owners[rows] += 1
        return total / num_owners.clamp(min=1).reshape(-1, *[1] * (total.dim() - 1))


def _sources(value: Any) -> list[Any]:
    """One input of a method as a list."""
    return list(value.values()) if isinstance(value, Mapping) else [value]


def _statistic_bytes(source: Statistic, parameter: Where) -> int:
    """About what a statistic of one parameter takes: factors of a matrix, or the block of a vector."""
    if parameter.name not in source.names or not parameter.shape:
        return 0
    sides = (
        (parameter.shape[0], math.prod(parameter.shape[1:])) if len(parameter.shape) > 1 else parameter.shape
    )
    return 4 * sum(side**2 for side in sides)


def _mib(num_bytes: int) -> int:
    """In MiB, rounded up."""
    return -(-num_bytes // 2**20)
