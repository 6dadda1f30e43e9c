"""Copies of arguments: as ``copy.deepcopy`` makes them."""

from __future__ import annotations

import copy

from sisyphus import Path
from sisyphus.job_identity import deep_copy


class Thing:
    """Copied by Python's own function."""

    def __init__(self, inside):
        self.inside = inside


def test_containers_are_new_and_what_they_share_stays_shared():
    shared = [1, "two"]
    original = {"a": shared, "b": (shared, {3.0, 4}), "c": Thing(shared), ("d", 1): None}
    copied = deep_copy(original, {})
    assert copied.keys() == original.keys()
    assert list(copied) == list(original)
    assert copied["a"] == shared
    assert copied["a"] is not shared
    assert copied["b"][0] is copied["a"]
    assert copied["b"][1] == {3.0, 4}
    assert copied["c"].inside is copied["a"]
    shared.append(3)
    assert copied["a"] == [1, "two"]


def test_paths_are_copied_once():
    path = Path("file")
    one, two = deep_copy(([path], {"x": path}), {})
    assert one[0] is two["x"]
    assert one[0] is not path
    assert one[0] == path


def test_what_contains_itself():
    ring = [1]
    ring.append((ring, "x"))
    copied = deep_copy(ring, {})
    assert copied is not ring
    assert copied[1][0] is copied
    assert type(deep_copy(copy.copy, {})) is type(copy.copy)
