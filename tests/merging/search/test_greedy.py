from merging.search.greedy import greedy_soup


def run(scores: dict[str, float]) -> tuple[list[str], list[str]]:
    """The members, and what was evaluated."""
    asked: list[str] = []

    def evaluate(members: list[str]) -> float:
        asked.append("".join(members))
        return scores["".join(members)]

    names = sorted(name for name in scores if len(name) == 1)
    return greedy_soup(names, evaluate), asked


def test_what_makes_it_worse_is_left_out() -> None:
    scores = {"a": 0.6, "b": 0.9, "c": 0.8, "bc": 0.85, "ab": 0.95}
    members, asked = run(scores)
    assert members == ["a", "b"]
    assert asked == ["a", "b", "c", "bc", "ab"]


def test_equally_good_is_added() -> None:
    assert run({"a": 0.5, "b": 0.5, "ab": 0.5})[0] == ["a", "b"]


def test_later_models_are_compared_with_the_soup() -> None:
    scores = {"a": 0.9, "b": 0.8, "c": 0.7, "ab": 0.92, "abc": 0.91}
    assert run(scores)[0] == ["a", "b"]


def test_one_model() -> None:
    assert run({"a": 0.1}) == (["a"], ["a"])
