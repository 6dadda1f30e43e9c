"""Local files and Hub sources become data folders; whatever is wrong with them says what and where."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from merging.data import sources, splits
from merging.data.download import download_data, download_model, read_inputs, read_source
from merging.data.sources import Source
from merging.errors import CheckpointError, DataError, HubError, OptionError, UnknownNameError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS = [{"text": f"text {row}", "label": row % 2} for row in range(6)]


def write(folder: Path, name: str, rows: list[dict[str, Any]], suffix: str = "parquet") -> Path:
    """Write ``<folder>/<name>/{train,test}.<suffix>``; return ``folder``."""
    (folder / name).mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    for split in ("train", "test"):
        file = folder / name / f"{split}.{suffix}"
        if suffix == "parquet":
            pq.write_table(table, file)
        elif suffix == "csv":
            table.to_pandas().to_csv(file, index=False)
        elif suffix == "jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
    return folder


def unshuffled(data: Path, split: str = "test") -> datasets.Dataset:
    return splits.load({"data": data, "split": split, "shuffle_seed": None})


def fetch(folder: Path, name: str, out: Path, **arguments: Any) -> dict[str, Any]:
    download_data(source=f"local/{name}", folder=folder, out=out, **arguments)
    return read_source(out)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl", "arrow"])
def test_the_content_hash_knows_neither_place_nor_format(tmp_path: Path, suffix: str) -> None:
    reference = fetch(write(tmp_path / "a", "one", ROWS), "one", tmp_path / "reference")
    record = fetch(write(tmp_path / "b" / "c", "two", ROWS, suffix), "two", tmp_path / "out")
    assert record["content_hash"] == reference["content_hash"]
    assert record["splits"] == {"test": 6, "train": 6}
    assert record["label_names"] == ["0", "1"]
    assert record["columns"] == ["text", "label"]
    rows = unshuffled(tmp_path / "out", "train")
    assert rows["text"][:] == [row["text"] for row in ROWS]
    assert rows["label"][:] == [0, 1, 0, 1, 0, 1]


def test_the_content_hash_knows_the_content(tmp_path: Path) -> None:
    changed = [*ROWS[:-1], {"text": "text 5 ", "label": 1}]
    hashes = {
        fetch(write(tmp_path / str(n), "d", rows), "d", tmp_path / f"out{n}")["content_hash"]
        for n, rows in enumerate([ROWS, changed, ROWS[::-1]])
    }
    assert len(hashes) == 3


def test_one_file_is_one_split(tmp_path: Path) -> None:
    write(tmp_path, "d", ROWS)
    assert fetch(tmp_path, "d/test.parquet", tmp_path / "out")["splits"] == {"test": 6}


def test_pairs_and_named_labels_are_kept(tmp_path: Path) -> None:
    rows = [{"text": "a", "text_pair": "b", "label": "yes"}, {"text": "c", "text_pair": "d", "label": "no"}]
    record = fetch(write(tmp_path, "pairs", rows), "pairs", tmp_path / "out")
    assert record["columns"] == ["text", "text_pair", "label"]
    assert record["label_names"] == ["no", "yes"]
    assert splits.load({"data": tmp_path / "out", "split": "test", "shuffle_seed": None})["label"][:] == [
        1,
        0,
    ]


def test_fixed_size_lists_with_a_shape_become_images(tmp_path: Path) -> None:
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, -1)
    table = pa.table({"image": [row.tolist() for row in pixels], "label": [0, 1]})
    (tmp_path / "images").mkdir()
    pq.write_table(
        table.replace_schema_metadata({"image_shape": "4,5,3"}), tmp_path / "images" / "test.parquet"
    )
    fetch(tmp_path, "images", tmp_path / "out")
    rows = splits.load({"data": tmp_path / "out", "split": "test", "shuffle_seed": None})
    assert np.array_equal(np.asarray(rows[1]["image"]), pixels[1].reshape(4, 5, 3))


def test_a_read_only_source_is_enough(tmp_path: Path) -> None:
    write(tmp_path / "files", "d", ROWS)
    for path in [*(tmp_path / "files").rglob("*"), tmp_path / "files"]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert fetch(tmp_path / "files", "d", tmp_path / "out")["splits"] == {"test": 6, "train": 6}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"sentence": "a", "label": 0}],
            r"local/d, split '(test|train)': no column 'text' or 'image'; it has sentence, label",
        ),
        ([{"text": 5, "label": 0}], "column 'text' holds int64, not strings"),
        ([{"text": None, "label": 0}, {"text": "a", "label": 0}], "text of row 0 is missing"),
        ([{"text": "a", "label": True}], "labels must be integers or strings"),
        ([{"text": "a", "label": 1}, {"text": "b", "label": -1}], r"label -1 of row 1 is outside 0\.\.1"),
    ],
)
def test_what_cannot_be_used_names_row_and_value(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    write(tmp_path, "d", rows)
    with pytest.raises(DataError, match=message):
        fetch(tmp_path, "d", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_label_outside_the_names_of_its_row_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Source(task_type=None, local="d", label_names=("negative", "positive"))
    monkeypatch.setitem(sources._SOURCES, "local/d", row)
    write(tmp_path, "d", [{"text": "a", "label": 2}])
    with pytest.raises(DataError, match=r"label 2 of row 0 is outside 0\.\.1 \(1 such rows\)"):
        fetch(tmp_path, "d", tmp_path / "out")


def test_a_wrong_path_suggests_a_right_one(tmp_path: Path) -> None:
    write(tmp_path, "imdb", ROWS)
    with pytest.raises(DataError, match=r"no data at .*imbd.*Did you mean 'imdb'"):
        fetch(tmp_path, "imbd", tmp_path / "out")
    with pytest.raises(DataError, match="nowhere is no folder"):
        fetch(tmp_path / "nowhere", "imdb", tmp_path / "out")


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError, match=r"holds no data; expected <split>\.parquet"):
        fetch(tmp_path, "d", tmp_path / "out")


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "arrow"])
def test_a_cut_off_file_is_named(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, "d", ROWS, suffix)
    file = tmp_path / "d" / f"train.{suffix}"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataError, match=rf"train\.{suffix} is damaged or not {suffix}"):
        fetch(tmp_path, "d", tmp_path / "out")


def test_another_content_than_pinned_leaves_the_old_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = fetch(write(tmp_path / "a", "d", ROWS), "d", out)
    fetch(tmp_path / "a", "d", out, content_hash=before["content_hash"])
    write(tmp_path / "b", "d", ROWS[:-1])
    with pytest.raises(DataError, match=f"expected {before['content_hash']}.*changed since they were pinned"):
        fetch(tmp_path / "b", "d", out, content_hash=before["content_hash"])
    assert read_source(out) == before


def test_arguments_that_do_not_suit_the_source(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="folder= must say where 'imdb' lies"):
        download_data(source="local/imdb", out=tmp_path / "out")
    with pytest.raises(OptionError, match="folder= is for local/ sources"):
        download_data(source="imdb", folder=tmp_path, out=tmp_path / "out")
    with pytest.raises(OptionError, match="revision= is for Hub sources"):
        download_data(source="digits", revision="main", out=tmp_path / "out")
    with pytest.raises(UnknownNameError, match=r"unknown data source 'imbd'\. Did you mean 'imdb'\?"):
        download_data(source="imbd", out=tmp_path / "out")


def test_a_damaged_record_says_so(tmp_path: Path) -> None:
    (tmp_path / "source.json").write_text('{"source": ')
    with pytest.raises(DataError, match=r"source\.json is damaged"):
        read_source(tmp_path)


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], list[tuple[Any, ...]]]:
    """``fake_hub(splits)`` answers every request of the Hub with these; returns the list of requests."""

    def install(found: dict[str, Any]) -> list[tuple[Any, ...]]:
        calls: list[tuple[Any, ...]] = []

        def load_dataset(name: str, config: str | None, *, revision: str) -> datasets.DatasetDict:
            calls.append((name, config, revision))
            return datasets.DatasetDict(
                {split: datasets.Dataset.from_list(rows) for split, rows in found.items()}
            )

        def repo_info(self: Any, name: str, *, revision: str | None, **kwargs: Any) -> Any:
            return huggingface_hub.DatasetInfo(id=name, sha=COMMIT if revision == "main" else revision)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)
        return calls

    return install


def test_a_hub_source_is_fetched_at_its_commit(tmp_path: Path, fake_hub: Any) -> None:
    rows = [
        {"title": "Good", "content": "I liked it.", "label": 1},
        {"title": "Bad", "content": "No.", "label": 0},
    ]
    calls = fake_hub({"train": rows, "test": rows, "other": rows})
    download_data(source="amazon_polarity", out=tmp_path / "out")
    record = read_source(tmp_path / "out")
    pinned = sources.load("amazon_polarity").revision
    assert calls == [("fancyzhx/amazon_polarity", None, pinned)]
    assert (record["revision"], record["label_names"]) == (pinned, ["negative", "positive"])
    assert record["splits"] == {"test": 2, "train": 2}
    assert unshuffled(tmp_path / "out")["text"][:] == ["Good I liked it.", "Bad No."]


def test_a_branch_is_recorded_as_the_commit_it_stands_for(tmp_path: Path, fake_hub: Any) -> None:
    rows = [{"sentence": "fine", "label": 1}]
    calls = fake_hub({"train": rows, "validation": rows, "test": [{"sentence": "secret", "label": -1}]})
    download_data(source="sst2", revision="main", out=tmp_path / "out")
    assert calls[0][2] == COMMIT
    assert read_source(tmp_path / "out")["revision"] == COMMIT
    assert read_source(tmp_path / "out")["splits"] == {"train": 1, "validation": 1}


def test_a_hub_source_that_lost_a_split_says_what_it_has(tmp_path: Path, fake_hub: Any) -> None:
    fake_hub({"train": [{"text": "a", "label": 0}], "tests": [{"text": "a", "label": 0}]})
    with pytest.raises(DataError, match=r"stanfordnlp/imdb: unknown split 'test'\. Did you mean 'tests'"):
        download_data(source="imdb", out=tmp_path / "out")


def test_without_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: Any, **kwargs: Any) -> Any:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", unreachable)
    for fetch_it in (
        lambda: download_data(source="imdb", out=tmp_path / "out"),
        lambda: download_model(model="roberta-base", out=tmp_path / "out"),
    ):
        with pytest.raises(
            HubError, match=r"cannot be fetched .* Check the id and the network .*HF_HUB_OFFLINE=1.*local"
        ):
            fetch_it()
    assert not (tmp_path / "out").exists()


def test_offline_a_branch_cannot_be_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="revision 'main' of 'stanfordnlp/imdb' cannot be looked up"):
        download_data(source="imdb", revision="main", out=tmp_path / "out")


@pytest.mark.hub
def test_rotten_tomatoes_can_be_fetched(tmp_path: Path) -> None:
    download_data(source="rotten_tomatoes", out=tmp_path / "out")
    assert read_source(tmp_path / "out")["splits"] == {"train": 8530, "validation": 1066, "test": 1066}


def test_a_local_model_is_copied_without_other_frameworks(tmp_path: Path, tiny_language_model: Path) -> None:
    shutil.copytree(tiny_language_model, tmp_path / "model")
    (tmp_path / "model" / "pytorch_model.bin").touch()
    download_model(model=str(tmp_path / "model"), out=tmp_path / "out")
    copied = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "source.json"} <= copied
    assert "pytorch_model.bin" not in copied
    record = json.loads((tmp_path / "out" / "source.json").read_text())
    assert record["source"] == "model"
    assert len(record["content_hash"]) == 64


def test_a_hub_model_is_fetched_at_its_commit(
    tmp_path: Path, tiny_language_model: Path, fake_hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub({})
    calls = []

    def snapshot_download(name: str, *, revision: str, allow_patterns: list[str]) -> str:
        calls.append((name, revision))
        return str(tiny_language_model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    download_model(model="some/model", revision="main", out=tmp_path / "out")
    assert calls == [("some/model", COMMIT)]
    assert json.loads((tmp_path / "out" / "source.json").read_text())["revision"] == COMMIT


def test_models_that_cannot_be_used(tmp_path: Path, tiny_language_model: Path) -> None:
    with pytest.raises(CheckpointError, match="no model folder at"):
        download_model(model=str(tmp_path / "nowhere"), out=tmp_path / "out")
    shutil.copytree(tiny_language_model, tmp_path / "model")
    with pytest.raises(OptionError, match="revision 'main' is for Hub ids"):
        download_model(model=str(tmp_path / "model"), revision="main", out=tmp_path / "out")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors weights"):
        download_model(model=str(tmp_path / "model"), out=tmp_path / "out")
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        download_model(model=str(tmp_path / "model"), out=tmp_path / "out")


def test_inputs_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "new.jsonl").write_text('{"text": "a", "stars": 3}\n{"text": "b", "stars": 4}\n')
    rows = read_inputs(tmp_path / "new.jsonl", ("text", "text_pair"))
    assert rows.column_names == ["text"]
    assert rows["text"][:] == ["a", "b"]
    with pytest.raises(DataError, match="none of the columns image; it has text, stars"):
        read_inputs(tmp_path / "new.jsonl", ("image",))
    with pytest.raises(DataError, match="no file at"):
        read_inputs(tmp_path / "old.jsonl", ("text",))
