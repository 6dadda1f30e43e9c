from collections.abc import Callable
from typing import Any

import pytest
from merging.errors import OptionError
from merging.methods import soup
from merging.methods._weights import WeightRange
from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]


def test_all_models_by_default(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("soup")
    a, b, c = inputs["models"].values()
    assert_close(run("soup", inputs), (a + b + c) / 3)


def test_members(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("soup")
    a, _, c = inputs["models"].values()
    assert_close(run("soup", inputs, members=["c", "a"]), (a + c) / 2)
    assert_close(run("soup", inputs, members=["c"]), c)


def test_weights_are_told(make_inputs: MakeInputs) -> None:
    seen = WeightRange()
    soup.merge(make_inputs("soup")["models"], soup.Options(members=("a", "c")), watch=seen)
    assert seen.by_task == {"a": (0.5, 0.5), "b": (0.0, 0.0), "c": (0.5, 0.5)}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "must name at least one model, got none"),
        (["a", "a"], r"must name each model once, got \['a', 'a'\]"),
        (["a", "z"], r"members \['z'\] are no models; the models are \['a', 'b', 'c'\]"),
    ],
)
def test_members_that_are_wrong(make_inputs: MakeInputs, run: Run, members: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        run("soup", make_inputs("soup"), members=members)
