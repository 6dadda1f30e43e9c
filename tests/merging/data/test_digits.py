"""The embedded data sets: deterministic, and disjoint across the whole family."""

import hashlib

import numpy as np
import pytest
from merging.data import digits, sources

DOMAINS = ("clean", "rotation", "blur", "shift", "noise", "shear")


def test_each_domain_is_a_source() -> None:
    assert [sources.load(name).digits for name in sources.names() if name.startswith("digits")] == [
        "clean",
        "blur",
        "noise",
        "rotation",
        "shear",
        "shift",
    ]


@pytest.mark.parametrize("domain", DOMAINS)
def test_splits_are_of_the_stated_sizes(domain: str) -> None:
    made = digits.make(domain)
    assert {split: len(labels) for split, (_, labels) in made.items()} == {
        "train": 1200,
        "validation": 200,
        "test": 397,
    }
    for images, labels in made.values():
        assert images.shape == (len(labels), 8, 8)
        assert images.dtype == np.uint8
        assert set(labels) == set(range(10))


def test_no_image_is_in_two_splits_of_any_domain() -> None:
    """All domains cut the same images alike, so it is enough that the clean splits share none."""
    clean = digits.make("clean")
    seen = {split: {image.tobytes() for image in images} for split, (images, _) in clean.items()}
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]
    for domain in DOMAINS:
        for split, (_, labels) in digits.make(domain).items():
            assert labels.tolist() == clean[split][1].tolist()


def test_domains_differ_and_stay_digits() -> None:
    clean = digits.make("clean")["test"][0].astype(float)
    for domain in DOMAINS[1:]:
        changed = digits.make(domain)["test"][0].astype(float)
        assert np.abs(changed - clean).mean() > 10
        correlation = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(changed, clean, strict=True)]
        assert np.mean(correlation) > 0.6


def test_the_clean_digits_are_pinned() -> None:
    images, labels = digits.make("clean")["test"]
    assert (
        hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
        == "9cad4498ba8974c0d4d1dce44c67dd9412f615344b3995900474c7877a80f5d8"
    )
