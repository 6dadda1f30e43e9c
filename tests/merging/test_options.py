import pytest
from merging.errors import OptionError
from merging.options import check_seed


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, True, "1", None])
def test_no_seed(seed: object) -> None:
    with pytest.raises(OptionError, match=r"train: seed must be an int in 0\.\.4294967295, got"):
        check_seed(seed, owner="train")


def test_seeds() -> None:
    check_seed(0, owner="train")
    check_seed(2**32 - 1, owner="train")
