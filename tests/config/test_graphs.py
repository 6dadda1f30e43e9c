"""Every config builds its graph without GPU, network or torch, in under two seconds, the same everywhere."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("build_graph.py")
MAX_SECONDS = 2.0
AMAZON = ("books", "electronics", "health_personal_care", "music", "toys_games")
CURVATURE = ("damping_digits", "damping_reviews", "delta_0", "examples")
DATA = ("imdb", "yelp", "sst2", "customer_reviews", *(f"amazon_{domain}" for domain in AMAZON))


def load(
    *configs: str, checkout: Path = ROOT, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MERGING_", "SIS_"))}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *configs],
        cwd=checkout,
        env={**kept, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def build(
    *configs: str, checkout: Path = ROOT, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    done = load(*configs, checkout=checkout, environment=environment)
    assert done.returncode == 0, done.stderr
    graph: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return graph


def make_site(folder: Path) -> dict[str, str]:
    """Local data and a base model as far as a graph looks at them."""
    data, model = folder / "data", folder / "base model"
    for name in DATA:
        (data / name).mkdir(parents=True)
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    return {"MERGING_DATA": str(data), "MERGING_BASE_MODEL": str(model)}


@pytest.fixture
def site(tmp_path: Path) -> dict[str, str]:
    return make_site(tmp_path / "site")


@pytest.mark.parametrize(
    ("config", "outputs"),
    [
        ("config/quickstart.py", ["quickstart"]),
        ("config/example.py", ["example"]),
        ("config/table1.py", ["table1"]),
        ("config.main", ["table1"]),
        ("config/reviews.py", ["reviews", "reviews/delta_0", "reviews/hessians"]),
        ("config/curvature.py", [f"curvature/{table}" for table in CURVATURE]),
        ("config/curvature.digits()", ["curvature/damping_digits"]),
    ],
)
def test_graphs_are_built_lightly(config: str, outputs: list[str], site: dict[str, str]) -> None:
    graph = build(config, environment=site)
    assert graph["heavy"] == []
    assert graph["seconds"] < MAX_SECONDS
    files = ("scaling.png", "table.csv", "table.md", "table.tex")
    assert graph["outputs"] == sorted(f"{output}/{file}" for output in outputs for file in files)
    assert len(graph["aliases"]) == len(set(graph["aliases"]))


def test_a_sweep_writes_no_models(site: dict[str, str]) -> None:
    """105 points, each a job that merges in memory; trainings and Hessians are those of the quickstart."""
    graph = build("config/sweep.py", environment=site)
    assert graph["heavy"] == [] and graph["seconds"] < MAX_SECONDS
    assert sum("EvaluateMergeJob" in id for id in graph["ids"]) == 105
    assert not any("MergeJob" in id and "EvaluateMergeJob" not in id for id in graph["ids"])
    shared = {id for id in graph["ids"] if "Train" in id or "Hessian" in id}
    assert shared and shared <= set(build("config/quickstart.py", environment=site)["ids"])


def test_every_config_is_tested() -> None:
    public = {path.stem for path in (ROOT / "config").glob("*.py") if not path.stem.startswith("_")}
    assert public == {"quickstart", "example", "table1", "reviews", "sweep", "curvature"}


def test_curvature_merges_models_that_others_train(site: dict[str, str]) -> None:
    """It trains none of its own (digits have more seeds), and writes no merge that reviews do not write."""
    graph = build("config/curvature.py", environment=site)
    of_reviews, of_digits = (
        set(build(f"config/{it}.py", environment=site)["ids"]) for it in ("reviews", "quickstart")
    )

    def named(ids: set[str], start: str) -> set[str]:
        return {id for id in ids if f"/{start}." in id}

    ids = set(graph["ids"])
    digits = named(set(build("config/curvature.digits()", environment=site)["ids"]), "TrainJob")
    assert named(ids, "TrainJob") - digits < named(of_reviews, "TrainJob")
    assert named(of_digits, "TrainJob") & digits and len(digits) == 3 * 6
    assert named(ids, "MergeJob") < named(of_reviews, "MergeJob")
    assert named(of_reviews, "HessianJob") < named(ids, "HessianJob")


@pytest.mark.parametrize(
    "config", ["config/quickstart.py", "config/table1.py", "config/reviews.py", "config/curvature.py"]
)
def test_ids_do_not_depend_on_the_checkout(config: str, site: dict[str, str], tmp_path: Path) -> None:
    checkout = tmp_path / "another checkout"
    checkout.mkdir()
    for name in ("config", "recipe"):
        shutil.copytree(ROOT / name, checkout / name)
    here = build(config, environment=site)
    assert build(config, checkout=checkout, environment=site)["ids"] == here["ids"]


def test_ids_do_not_depend_on_where_local_data_lie(site: dict[str, str], tmp_path: Path) -> None:
    elsewhere = make_site(tmp_path / "somewhere else")
    assert (
        build("config/reviews.py", environment=elsewhere)["ids"]
        == build("config/reviews.py", environment=site)["ids"]
    )


def test_another_base_model_gives_other_ids(site: dict[str, str]) -> None:
    before = build("config/reviews.py", environment=site)["ids"]
    (Path(site["MERGING_BASE_MODEL"]) / "model.safetensors").write_bytes(b"other weights")
    after = build("config/reviews.py", environment=site)["ids"]
    assert {id for id in before if "Train" in id}.isdisjoint(after)
    assert {id for id in before if "Download" in id} <= set(after)


def test_settings_name_places_too(site: dict[str, str]) -> None:
    as_settings = {f"SIS_{name}": value for name, value in site.items()}
    assert build("config/reviews.py", environment=as_settings) | {"seconds": 0} == build(
        "config/reviews.py", environment=site
    ) | {"seconds": 0}


def test_the_small_size_is_smaller(site: dict[str, str]) -> None:
    full = build("config/reviews.py", environment=site)["ids"]
    small = build("config/reviews.py", environment={**site, "MERGING_SIZE": "small"})["ids"]
    assert len(small) < len(full) / 2


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"MERGING_DATA": ""}, "MERGING_DATA is not set: the folder of the local data sets"),
        ({"MERGING_DATA": "/nowhere"}, "MERGING_DATA is '/nowhere', which is no folder"),
        ({"MERGING_BASE_MODEL": ""}, "MERGING_BASE_MODEL is not set: the model folder to start from"),
        ({"MERGING_SIZE": "smal"}, "MERGING_SIZE: unknown size 'smal'. Did you mean 'small'?"),
    ],
)
def test_what_a_site_must_say(site: dict[str, str], environment: dict[str, str], message: str) -> None:
    done = load("config/reviews.py", environment={**site, **environment})
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert message in last
    if "MERGING_SIZE" not in environment:
        assert "export MERGING_" in last


def test_a_data_set_that_is_missing(site: dict[str, str]) -> None:
    (Path(site["MERGING_DATA"]) / "sst2").rmdir()
    done = load("config/reviews.py", environment=site)
    assert "local/sst2: there is no " in done.stderr.strip().splitlines()[-1]


def test_a_model_folder_without_weights(site: dict[str, str]) -> None:
    (Path(site["MERGING_BASE_MODEL"]) / "model.safetensors").unlink()
    done = load("config/reviews.py", environment=site)
    assert "is no model folder: it needs config.json and *.safetensors" in done.stderr
