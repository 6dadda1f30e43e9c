from typing import Any

import pytest
from merging.errors import OptionError
from merging.tables.rows import LineKey, check

ROW = {"label": "average", "kind": "merged", "seed": 0, "evaluation": "folder"}
PLAIN: dict[str, Any] = {"reference": None}


def rows(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**ROW, **change} for change in changes]


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ([], PLAIN, "there are no rows"),
        ([{"lable": "x"}], PLAIN, "row 1: unknown option 'lable'. Did you mean 'label'?"),
        (
            [{}, {"kind": "merge"}],
            PLAIN,
            "row 2: kind must be one of 'base', .*, 'merged', got",
        ),
        ([{"scaling_factor": 1}], PLAIN, "scaling_factor must be .*, got 1 of type int. Write 1.0"),
        ([{"seed": -1}], PLAIN, "seed must be >= 0, got -1"),
        ([{"label": " "}], PLAIN, "label must not be empty"),
        ([{}, {"seed": 1}, {"label": "b"}], PLAIN, r"line 'b' has seeds \[0\], the table has \[0, 1\]"),
        (
            [{}, {"seed": 1}, {"scaling_factor": 0.5}],
            PLAIN,
            r"'average' at scaling factor 0.5 has seeds \[0\]",
        ),
        ([{}, {"kind": "base"}], PLAIN, "label 'average' is used for kind 'merged' and 'base'"),
        (
            [{"label": "a", "kind": "individual"}, {"label": "b", "kind": "individual"}],
            PLAIN,
            r"only one label may be of kind 'individual', got \['a', 'b'\]",
        ),
        ([{}], {}, r"reference 'task arithmetic' is no row; rows are \['average'\]"),
        (
            [{"label": "task arithmetic", "scaling_factor": 0.5}],
            {},
            r"has no row with scaling factor 1.0; it has \[0.5\]",
        ),
        ([{"parameter": 0.0}], PLAIN, "parameter must be > 0, because its axis is logarithmic; got 0.0"),
        ([{"parameter": 8.0}], PLAIN, "has parameter 8.0, but the table does not say what that is. Set"),
        ([{}], {**PLAIN, "parameter": "examples"}, "parameter is 'examples', but no row has one"),
        (
            [{}, {"seed": 1}, {"parameter": 8.0, "scaling_factor": 1.0}],
            {**PLAIN, "parameter": "examples"},
            r"'average' at scaling factor 1.0 at parameter 8.0 has seeds \[0\]",
        ),
        ([{}], {**PLAIN, "bootstrap_samples": 10}, "bootstrap_samples must be >= 100, got 10"),
        ([{}], {**PLAIN, "seed": -3}, "table: seed must be >= 0, got -3"),
        ([{}], {**PLAIN, "label": "a b"}, "label may hold letters, digits .* got 'a b'"),
        ([{}], {**PLAIN, "titel": "x"}, "table: unknown option 'titel'. Did you mean 'title'?"),
    ],
)
def test_mistakes(changes: list[dict[str, Any]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        check(rows(*changes), options)


def test_a_reference_without_scaling_factor_is_enough() -> None:
    parsed, options = check(rows({}, {"label": "other", "scaling_factor": 0.5}), {"reference": "average"})
    assert [row.key for row in parsed] == [LineKey("average"), LineKey("other", 0.5)]
    assert options.reference == "average"
