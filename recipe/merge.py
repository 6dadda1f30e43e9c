"""Merging fine-tuned models into one."""

import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from sisyphus import Job, Task, tk


class MergeJob(Job):
    """Run one file of ``merging/methods`` over checkpoints, one parameter at a time.

    Args:
        method: name of the method file, e.g. ``"task_arithmetic"``.
        options: fields of the method's ``Options``; unset fields keep their defaults.
        base: model folder that all models were fine-tuned from; None for methods that do not look at it.
        models: model folder of each fine-tuned model, by task.
        extras: what else the method asks for, e.g. ``{"hessians": {task: folder}}``.
        policy: fields of ``merging.merge.policy.Policy``: what is not plainly merged.
        output: fields of ``merging.merge.output_options.OutputOptions``: how the result is stored.
        compute: fields of ``merging.merge.compute_options.ComputeOptions``: memory, device and threads; no
            part of the job's identity.
    """

    def __init__(
        self,
        *,
        method: str,
        options: Mapping[str, Any],
        base: tk.Path | None,
        models: Mapping[str, tk.Path],
        extras: Mapping[str, Any],
        policy: Mapping[str, Any] | None = None,
        output: Mapping[str, Any] | None = None,
        compute: Mapping[str, Any] | None = None,
    ):
        check_merge(
            method=method,
            options=options,
            base=base,
            models=models,
            extras=extras,
            policy=policy,
            output=output,
            compute=compute,
        )
        self.method, self.options, self.policy = method, options, policy
        self.base, self.models, self.extras = base, models, extras
        self.output, self.compute = output, compute
        self.rqmt = {"cpu": 1, "mem": 4, "time": 1}  # mem in GB, time in hours
        self.out_model = self.output_path("model", directory=True)
        self.out_verification = self.output_path("verification.json")

    @classmethod
    def hash(cls, parsed_args: dict[str, Any]) -> str:
        """Without what does not change the result; output only where it is given."""
        left_out = {"compute"} if parsed_args["output"] is not None else {"compute", "output"}
        arguments = {key: its for key, its in parsed_args.items() if key not in left_out}
        return str(super().hash(with_version(arguments)))

    def update(self) -> None:
        """Ask for the memory and time that the headers of the models call for; configs may ask for others."""
        from merging.errors import MergingError
        from merging.merge.cost import from_headers

        try:
            cost = from_headers(
                method=self.method,
                options=self.options,
                base=self.base,
                models=self.models,
                extras=self.extras,
            )
        except MergingError:
            return  # the merge itself says what is wrong with its inputs
        loaded = cost.written_bytes + 2**30  # for the check afterwards, with what loads the model
        self.rqmt = {
            **self.rqmt,
            "mem": math.ceil(max(cost.memory_bytes, loaded) / 2**30),
            "time": math.ceil(cost.seconds / 3600),
        }

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from merging.merge.model_card import write_card
        from merging.merge.streaming import merge_checkpoints  # heavy: only in the worker
        from merging.merge.verification import verify

        merge_checkpoints(
            method=self.method,
            options=self.options,
            base=self.base,
            models=self.models,
            extras=self.extras,
            out=self.out_model,
            policy=self.policy,
            output=self.output,
            compute=self.compute,
        )
        found = verify(self.out_model, base=self.base, out=self.out_verification)
        write_card(self.out_model, verification=dataclasses.asdict(found))
        sys.stdout.write(found.text() + "\n")


def with_version(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments of a merge as ids see them: with the version of the method, where it is not the first."""
    from merging import methods

    version = methods.version(arguments["method"])
    return arguments if version == 1 else {**arguments, "version": version}


def check_merge(
    *,
    method: str,
    options: Mapping[str, Any],
    base: tk.Path | None,
    models: Mapping[str, tk.Path],
    extras: Mapping[str, Any],
    policy: Mapping[str, Any] | None = None,
    output: Mapping[str, Any] | None = None,
    compute: Mapping[str, Any] | None = None,
) -> None:
    """Refuse what a merge would refuse, as far as no tensor is needed: a misspelt option fails here, not
    hours later."""
    from merging.merge.compute_options import ComputeOptions
    from merging.merge.output_options import OutputOptions
    from merging.merge.policy import Policy
    from merging.methods import check_call
    from merging.options import parse

    check_call(method, options, extras, tasks=models.keys(), has_base=base is not None)
    parse(Policy, {} if policy is None else policy, owner="policy")
    parse(OutputOptions, output or {}, owner="output")
    parse(ComputeOptions, compute or {}, owner="compute")


def merge_arguments(
    method: str,
    options: Mapping[str, Any],
    *,
    base: tk.Path,
    models: Mapping[str, tk.Path],
    **available: Any,
) -> dict[str, Any]:
    """Arguments of a :class:`MergeJob` that gets only what its method asks for.

    Args:
        method: name of the method file.
        options: fields of the method's ``Options``.
        base: model folder that all models were fine-tuned from.
        models: model folder of each fine-tuned model, by task.
        available: everything a method may ask for, e.g. ``base_hessian=folder, hessians={task: folder}``.
    """
    from merging.methods import inputs

    needed = inputs(method)
    return {
        "method": method,
        "options": options,
        "base": base if "base" in needed else None,
        "models": models,
        "extras": {key: value for key, value in available.items() if key in needed},
    }


def merge(
    method: str,
    options: Mapping[str, Any],
    *,
    base: tk.Path,
    models: Mapping[str, tk.Path],
    **available: Any,
) -> MergeJob:
    """Make a :class:`MergeJob`; arguments as for :func:`merge_arguments`."""
    return MergeJob(**merge_arguments(method, options, base=base, models=models, **available))
