"""How jobs differ: field by field, through dicts, lists and the jobs that make their inputs."""

from __future__ import annotations

from typing import ClassVar

import pytest
from sisyphus import Job, tk
from sisyphus.explaining.differences import differences
from sisyphus.explaining.graph_diff import compare
from sisyphus.explaining.identity import left_out_of_id
from sisyphus.explaining.saved_jobs import SavedJob, save_in_memory
from sisyphus.explaining.siblings import Folders, closest
from sisyphus.explaining.snapshot import from_plain, take_snapshot
from sisyphus.graph import SISGraph, creators_of, dependencies_first
from sisyphus.outputs.targets import OutputPath


class Data(Job):
    def __init__(self, name, split="train"):
        self.out = self.output_path("data")


class Train(Job):
    __sis_hash_exclude__: ClassVar = {"verbose": False}

    def __init__(self, data, options, verbose=False):
        self.data = data
        self.out_model = self.output_path("model")
        self.out_log = self.output_path("log")


class Evaluate(Job):
    def __init__(self, *, model, others=()):
        self.out = self.output_var("score")


def compared(old: Job, new: Job):
    known = Folders(save_in_memory(job) for job in dependencies_first([old, new], creators_of))
    found = differences(save_in_memory(old), save_in_memory(new), known.find)
    return [(difference.where, difference.old, difference.new) for difference in found]


def test_places_in_dicts_and_lists(workplace):
    data = Data("imdb").out
    old = Train(data, {"alpha": 0.5, "layers": [1, {"a": 2}], "gone": 1})
    new = Train(data, {"alpha": 0.25, "layers": [1, {"a": 3}], "come": 1})
    assert compared(old, new) == [
        ("options['alpha']", "0.5", "0.25"),
        ("options['layers'][1]['a']", "2", "3"),
        ("options['gone']", "1", "<not there>"),
        ("options['come']", "<not there>", "1"),
    ]


def test_types_are_named_where_the_text_does_not_tell(workplace):
    data = Data("imdb").out
    assert compared(Train(data, {"a": 1}), Train(data, {"a": 1.0})) == [
        ("options['a']", "1 (int)", "1.0 (float)")
    ]
    assert compared(Train(data, [1]), Train(data, (1,))) == [("options", "[1] (list)", "(1) (tuple)")]


def test_through_a_chain_to_the_first_job_that_changed(workplace):
    old = Evaluate(model=Train(Data("imdb", "train[:10]").out, {}).out_model)
    new = Evaluate(model=Train(Data("imdb", "train[:20]").out, {}).out_model)
    assert compared(old, new) == [("model -> data -> split", "'train[:10]'", "'train[:20]'")]


def test_each_pair_of_jobs_is_compared_once(workplace):
    def graph(split):
        train = Train(Data("imdb", split).out, {})
        return Evaluate(model=train.out_model, others=[train.out_model, train.out_log])

    assert compared(graph("a"), graph("b")) == [("model -> data -> split", "'a'", "'b'")]


def test_another_output_or_another_class_is_a_difference(workplace):
    train = Train(Data("imdb").out, {})
    ((where, _, new),) = compared(Evaluate(model=train.out_model), Evaluate(model=train.out_log))
    assert (where, new) == ("model", f"{train._sis_id()}/output/log")
    ((where, _, _),) = compared(Evaluate(model=train.out_model), Evaluate(model=Data("x").out))
    assert where == "model"


def test_a_job_of_which_nothing_is_left(workplace):
    old = Evaluate(model=Train(Data("a").out, {}).out_model)
    new = Evaluate(model=Train(Data("b").out, {}).out_model)
    ((difference),) = differences(save_in_memory(old), save_in_memory(new), lambda job_id: None)
    assert difference.where == "model"
    assert "folder is gone" in difference.new


def test_versions(workplace):
    old, new = SavedJob("A.1", version=""), SavedJob("A.2", version="2")
    ((difference),) = differences(old, new, lambda job_id: None)
    assert (difference.where, difference.old, difference.new) == ("__sis_version__", "None", "2")


def test_same_arguments_and_another_id_name_the_commits(workplace):
    old, new = SavedJob("A.1", commit="abc"), SavedJob("A.2", commit="def+")
    ((difference),) = differences(old, new, lambda job_id: None)
    assert difference.old == "recipe at abc"
    assert "hash method" in difference.new


def test_what_does_not_enter_the_id(workplace):
    data = Data("imdb").out
    assert left_out_of_id(Train(data, {})) == {"verbose"}
    assert left_out_of_id(Train(data, {"x": 1}, verbose=True)) == frozenset()

    class Own(Job):
        def __init__(self, a, gpu_mem):
            self.out = self.output_path("x")

        @classmethod
        def hash(cls, parsed_args):
            del parsed_args["gpu_mem"]
            return super().hash(parsed_args)

    assert left_out_of_id(Own(1, 2)) == {"gpu_mem"}


def test_a_new_argument_that_changes_no_id_is_no_difference(workplace):
    job = save_in_memory(Train(Data("imdb").out, {"a": 1}))
    before = SavedJob(
        "x/Train.old", {name: node for name, node in job.arguments.items() if name != "verbose"}
    )
    ((difference),) = differences(before, job, Folders([job]).find)
    assert "hash method" in difference.new
    ((difference),) = differences(
        before, save_in_memory(Train(Data("imdb").out, {"a": 1}, True)), Folders().find
    )
    assert difference.where == "verbose"


def test_the_closest_folder_of_the_class(workplace):
    data = Data("imdb").out
    far, near, new = Train(data, {"a": 1}, True), Train(data, {"a": 2}), Train(data, {"a": 3})
    for job in (far, near):
        job._sis_setup_directory()
    found, number = closest(save_in_memory(new), Folders())
    assert found == save_in_memory(near)
    assert number == 2


def test_of_several_the_one_with_the_fewest_differences_further_up(workplace):
    def chain(name, split, rate):
        return Evaluate(model=Train(Data(name, split).out, {"rate": rate}).out_model)

    jobs = [chain("imdb", "a", 1), chain("yelp", "b", 2), chain("sst2", "b", 2)]
    for job in dependencies_first(jobs, creators_of):
        job._sis_setup_directory()
    new = chain("imdb", "a", 3)
    known = [save_in_memory(ancestor) for ancestor in dependencies_first([new], creators_of)]
    assert closest(known[-1], Folders(known))[0] == save_in_memory(jobs[0])


def test_an_alias_in_common_counts_most(workplace):
    data = Data("imdb").out
    same, other = Train(data, {"a": 1}, True).add_alias("best"), Train(data, {"a": 2})
    for job in (same, other):
        job._sis_setup_directory()
    new = Train(data, {"a": 3}).add_alias("best")
    assert closest(save_in_memory(new), Folders())[0] == save_in_memory(same)


def test_folders_moved_aside_do_not_count(workplace):
    job = Train(Data("imdb").out, {"a": 1})
    job._sis_setup_directory()
    job._sis_dir.move_aside()
    assert closest(save_in_memory(Train(Data("imdb").out, {"a": 2})), Folders()) == (None, 0)


# --- graphs ---


def snapshot(**outputs):
    graph = SISGraph()
    for name, path in outputs.items():
        graph.add_target(OutputPath(name, path))
    return take_snapshot(graph)


def evaluations(options, names=("imdb", "yelp")):
    return {
        name: Evaluate(model=Train(Data(name).out, options).out_model).add_alias(f"eval/{name}").out
        for name in names
    }


def test_a_changed_option_is_the_cause_of_all_that_follows(workplace):
    found = compare(snapshot(**evaluations({"alpha": 1})), snapshot(**evaluations({"alpha": 2})))
    assert len(found.reused) == 2  # the data
    assert len(found.new) == len(found.orphaned) == 4
    assert [cause.replaces for cause in found.causes] == [True, True]
    for cause in found.causes:
        assert [change.text() for change in cause.changes] == ["options['alpha']: 1 -> 2"]
        assert len(cause.followers) == 1
    assert sorted(found.replaced.values()) == sorted(found.orphaned)


def test_a_job_more_is_compared_with_one_that_stays(workplace):
    old = snapshot(**evaluations({"alpha": 1}, ["imdb"]))
    found = compare(old, snapshot(**evaluations({"alpha": 1})))
    assert not found.orphaned
    assert len(found.new) == 3
    (cause,) = found.causes
    assert len(cause.followers) == 2
    assert not cause.replaces
    assert [change.text() for change in cause.changes] == ["name: 'imdb' -> 'yelp'"]


def test_a_class_that_is_new(workplace):
    data = Data("imdb")
    found = compare(snapshot(data=data.out), snapshot(model=Train(data.out, {}).out_model))
    assert [cause.before for cause in found.causes] == [""]


def test_equal_graphs(workplace):
    found = compare(snapshot(**evaluations({})), snapshot(**evaluations({})))
    assert not found.new
    assert not found.orphaned
    assert len(found.reused) == 6


def test_a_snapshot_travels_as_json(workplace):
    taken = snapshot(**evaluations({"a": [1, {"b": tk.Path("file")}]}))
    assert from_plain(taken.as_json()) == taken


@pytest.mark.parametrize("number", [300])
def test_many_followers(workplace, number):
    def graph(split):
        train = Train(Data("imdb", split).out, {})
        jobs = (Evaluate(model=train.out_model, others=[index]) for index in range(number))
        return snapshot(**{f"score{index}": job.out for index, job in enumerate(jobs)})

    found = compare(graph("a"), graph("b"))
    (cause,) = found.causes
    assert len(cause.followers) == number + 1
