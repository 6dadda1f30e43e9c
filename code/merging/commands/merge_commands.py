"""Commands that merge: ``merge``, ``search``, ``push``, and a mergekit file."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from merging import explain, methods
from merging.commands import mergekit_command as mergekit
from merging.commands.command_arguments import DATASET, OUT, TASK_TYPE, model
from merging.commands.command_line import Argument, Command, announce, as_json, dataset, folder_or_json, write
from merging.errors import OptionError
from merging.evaluation.options import PredictionOptions
from merging.files import hub
from merging.merge.compute_options import ComputeOptions
from merging.merge.output_options import OutputOptions
from merging.merge.policy import Policy
from merging.options import parse as parse_options
from merging.search.options import SearchOptions, check_search


def _merge(
    *,
    method: str,
    base: str | None,
    models: Mapping[str, str],
    policy: Mapping[str, Any] | None,
    result: str | None,
    rank: int | None,
    saved: str | None,
    options: Mapping[str, Any],
    output: Mapping[str, Any],
    compute: Mapping[str, Any],
    out: str,
    **inputs: Any,
) -> str:
    extras = {name: value for name, value in inputs.items() if value is not None}
    parse_options(
        Policy, {} if policy is None else policy, owner="policy"
    )  # mistakes are said before anything is fetched
    parse_options(OutputOptions, output, owner="output")
    parse_options(ComputeOptions, compute, owner="compute")
    if result in (None, "dense"):
        for name, value in (("rank", rank), ("saved", saved)):
            if value is not None:
                raise OptionError(
                    f"merging merge: --{name} is for adapters as a result. Say which with --result, e.g. svd."
                )
        methods.check_call(method, options, extras, tasks=models.keys(), has_base=base is not None)
        from merging.merge.streaming import merge_checkpoints

        merge_checkpoints(
            method=method,
            options=options,
            **_fetched(base, models, extras),
            policy=policy,
            output=output,
            compute=compute,
            out=out,
            announce=announce,
        )
        return f"wrote {out}"
    statistics = extras if result == "vectors" else {}
    others = {
        **(extras if result != "vectors" else {}),
        **({"policy": policy} if policy else {}),
        **output,
        **compute,
    }
    for name in others:
        raise OptionError(
            f"merging merge: --{name.replace('_', '-')} is for merges of whole models, not for --result "
            f"{result}. Leave it out, or take --result dense."
        )
    methods.check_call(method, options, statistics, tasks=models.keys(), has_base=True)
    from merging.adapters import merge_adapters

    found = _fetched(base, models, {})
    losses = merge_adapters(
        method=method,
        options=options,
        adapters=found["models"],
        base=found["base"],
        result=result,  # type: ignore[arg-type]  # checked there
        rank=rank,
        saved=saved or "error",  # type: ignore[arg-type]  # the same
        statistics=statistics,
        out=out,
    )
    lost = "" if losses is None else f"lost by the rank: {losses.all:.1%}\n"
    return f"{lost}wrote {out}"


def _fetched(base: str | None, models: Mapping[str, str], extras: Mapping[str, Any]) -> dict[str, Any]:
    """The models of a merge, those that are named by Hub ids downloaded."""
    return {
        "base": None if base is None else hub.fetched(base),
        "models": {task: hub.fetched(model) for task, model in models.items()},
        "extras": {
            key: hub.fetched(value) if methods.is_model(key) else value for key, value in extras.items()
        },
    }


def _publishing(run: Callable[..., str]) -> Callable[..., str]:
    """Let a merge also be checked and uploaded."""

    def whole(*, verify: bool, push_to_hub: str | None, private: bool, **rest: Any) -> str:
        if push_to_hub is not None:
            hub.check_push(push_to_hub)
        elif private:
            raise OptionError("merging merge: --private goes with --push-to-hub ID.")
        if verify and rest.get("result") not in (None, "dense"):
            raise OptionError("merging merge: --verify is for whole models, not for adapters. Leave it out.")
        text = run(**rest)
        if verify:
            from merging.merge.model_card import write_card
            from merging.merge.verification import check
            from merging.merge.verification import verify as look

            found = look(rest["out"])
            write_card(rest["out"], verification=dataclasses.asdict(found))
            text = f"{found.text()}\n{text}"
            check(found)
        if push_to_hub is not None:
            write(text)
            text = f"uploaded to {hub.push_model(rest['out'], push_to_hub, private=private)}"
        return text

    return whole


def _push(*, model: str, push_to_hub: str, private: bool) -> str:
    from merging.merge.compatibility import read_config
    from merging.sources.adapter_folder import is_adapter

    if not is_adapter(Path(model)):
        read_config(Path(model), label="model")
    hub.check_push(push_to_hub)
    return f"uploaded to {hub.push_model(model, push_to_hub, private=private)}"


def _search(
    *,
    method: str,
    base: str | None,
    models: Mapping[str, str],
    policy: Mapping[str, Any] | None,
    fixed: Mapping[str, Any],
    space: Mapping[str, Any],
    task_type: str,
    data: Mapping[str, Any],
    keep_model: bool,
    options: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    out: str,
    work: str | None,
    **inputs: Any,
) -> str:
    extras = {name: value for name, value in inputs.items() if value is not None}
    check_search(
        method=method,
        fixed=fixed,
        space=space,
        options=options,
        extras=extras,
        tasks=models.keys(),
        has_base=base is not None,
    )
    from merging.search.run import search

    place = Path(work) if work is not None else Path(out).resolve().with_name(f"{Path(out).name}.work")
    search(
        merge={"method": method, "options": fixed, "policy": policy, **_fetched(base, models, extras)},
        space=space,
        task_type=task_type,
        data=data,
        evaluation=evaluation,
        options=options,
        out=out,
        work=place,
        keep_model=keep_model,
    )
    if work is None:
        shutil.rmtree(place, ignore_errors=True)
    found = json.loads((Path(out) / "search.json").read_text(encoding="utf-8"))
    best = found["best"]
    return (
        f"{found['metric']} {100 * best['score']:.1f} with {json.dumps(best['options'])}, the best of "
        f"{found['num_evaluations']} merges\nwrote {out}"
    )


def _merge_options(known: Mapping[str, Any]) -> type | None:
    method = known.get("method")
    options: type | None = methods.load(str(method)).Options if method else None
    return options


def _search_options(known: Mapping[str, Any]) -> type:
    return SearchOptions


_METHOD = Argument(name="method", help=f"one of {', '.join(methods.names())}", metavar="NAME", required=True)

_INPUTS = tuple(
    Argument(
        name=name,
        help=text + (", or its Hub id (owner/name@revision)" if methods.is_model(name) else ""),
        metavar="FOLDER",
        read=str if methods.is_model(name) else folder_or_json,
        by_task=methods.is_by_task(name),
        required=name == "models",
    )
    for name, text in methods.INPUTS.items()
)
"""Everything that a merge method may ask for."""

_POLICY = Argument(
    name="policy",
    help='what is not plainly merged: heads, vocabularies, buffers, e.g. {"exclude": ["classifier.*"]}; see '
    "docs/merging.md",
    metavar="JSON",
    read=as_json,
)
_PUSH = (
    Argument(name="push_to_hub", help="upload the finished folder under this Hub id", metavar="ID"),
    Argument(
        name="private",
        help="make a new repository on the Hub private",
        metavar="",
        switch=True,
        default=False,
    ),
)
_PUBLISHING = (
    Argument(
        name="verify",
        help="check the result like `merging verify`, and write what was found into its model card",
        metavar="",
        switch=True,
        default=False,
    ),
    *_PUSH,
)

MERGE = Command(
    name="merge",
    help="Merge fine-tuned models or adapters into one. `merging methods` explains the methods.\n"
    "Options depend on the method: merging merge --method NAME --help\n"
    "Those that are numbers may be a gradient over the layers, by task, or by name:\n"
    "  --scaling-factor '[0.2, 1.0]'    --scaling-factor a=0.3 b=0.5\n"
    """  --scaling-factor '[{"filter": "*.attention.*", "value": 0.5}, {"value": 0.3}]'\n"""
    "A mergekit file is run by merging merge --config FILE.yml --out FOLDER",
    arguments=(
        _METHOD,
        *_INPUTS,
        _POLICY,
        Argument(
            name="result",
            help="what adapters are merged to: dense, svd, concat, knots, factors, linear or vectors "
            "(default: dense, a whole model); see docs/adapters.md",
            metavar="KIND",
        ),
        Argument(name="rank", help="rank of the result, for --result svd", metavar="INT", read=as_json),
        Argument(
            name="saved",
            help="what an adapter result does with heads and biases that differ: error, average or drop",
            metavar="HOW",
        ),
        *_PUBLISHING,
        OUT,
    ),
    run=_publishing(_merge),
    options=_merge_options,
    settings={"output": OutputOptions, "compute": ComputeOptions},
    scheduled=True,
    epilog="example:\n  " + explain.example("gradient_matching"),
)

SEARCH = Command(
    name="search",
    help="Search for the options of a merge on validation data; every merge stays in memory.",
    arguments=(
        _METHOD,
        *_INPUTS,
        _POLICY,
        Argument(
            name="fixed",
            help='options of the method that stay the same, e.g. {"density": 0.2}',
            metavar="JSON",
            read=as_json,
            default={},
        ),
        Argument(
            name="space",
            help='what is searched for: {"scaling_factor": {"low": 0.0, "high": 1.0, "step": 0.1}}, or a '
            'list of numbers; also "log": true, and "per_task": true for one number for each task',
            metavar="JSON",
            read=as_json,
            default={},
        ),
        TASK_TYPE,
        Argument(
            name="data",
            help="validation set by task, never the test set",
            metavar=DATASET,
            read=dataset,
            by_task=True,
            required=True,
        ),
        Argument(
            name="keep_model",
            help="also write the best model, into OUT/model",
            metavar="",
            switch=True,
            default=False,
        ),
        OUT,
        Argument(
            name="work",
            help="finished trials, for a search that goes on (default: beside --out, removed at the end)",
            metavar="FOLDER",
        ),
    ),
    run=_search,
    options=_search_options,
    settings={"evaluation": PredictionOptions},
    epilog="example:\n  merging search --method task_arithmetic --base base \\\n"
    "    --models yelp=models/yelp sst2=models/sst2 --task-type sequence_classification \\\n"
    "    --max-tokens 384 --strategy grid \\\n"
    """    --space '{"scaling_factor": {"low": 0.0, "high": 1.0, "step": 0.1}}' \\\n"""
    "    --data yelp='data/yelp:train[90%:]' sst2='data/sst2:train[90%:]' --out search/yelp_sst2",
)

PUSH = Command(
    name="push",
    help="Upload a finished model folder to the Hugging Face Hub.",
    arguments=(model("model folder"), dataclasses.replace(_PUSH[0], required=True), _PUSH[1]),
    run=_push,
    leading="model",
    epilog="example:\n  merging push merged --push-to-hub you/merged --private",
)


def from_mergekit(file: str) -> Command:
    """The command that runs a mergekit file."""
    command = mergekit.command(file, OUT)
    arguments = (*command.arguments, *_PUBLISHING)
    return dataclasses.replace(command, arguments=arguments, run=_publishing(command.run))
