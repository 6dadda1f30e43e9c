from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from merging.methods._random import bernoulli, draws
from merging.methods._seam import Parameter


def at(start: int, name: str = "w") -> Parameter:
    return Parameter(name=name, shape=(1000,), start=start)


def test_draws_are_the_words_of_philox() -> None:
    """Pinned: a merge with a seed gives the same model next year."""
    drawn = draws(4, seed=7, task="a", parameter=at(0))
    assert drawn.dtype == torch.int32
    assert drawn.tolist() == [-715830091, 785427134, 1452089980, -1976433354]
    key = np.frombuffer(bytes.fromhex("c5b7602f808d2bc18186f54805f12b62"), np.uint64)
    words = np.random.Philox(key=key).random_raw(2)
    assert drawn.tolist() == words.view(np.int32).tolist()


@pytest.mark.parametrize("start", [0, 1, 7, 8, 9, 16, 531])
@pytest.mark.parametrize("size", [0, 1, 8, 40])
def test_pieces_are_parts_of_the_whole(start: int, size: int) -> None:
    whole = draws(1000, seed=0, task="a", parameter=at(0))
    assert torch.equal(draws(size, seed=0, task="a", parameter=at(start)), whole[start : start + size])


def test_seed_task_and_name_all_matter() -> None:
    first = draws(50, seed=0, task="a", parameter=at(0))
    for seed, task, name in ((1, "a", "w"), (0, "b", "w"), (0, "a", "v"), (0, "aw", "")):
        other = draws(50, seed=seed, task=task, parameter=at(0, name))
        assert (other == first).float().mean() < 0.1


def test_no_generator_is_touched_and_threads_do_not_matter() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    np_state = np.random.get_state()[1].copy()
    alone = [draws(5000, seed=s, task="a", parameter=at(3)) for s in range(8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda s: draws(5000, seed=s, task="a", parameter=at(3)), range(8)))
    assert all(map(torch.equal, alone, together))
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == np_state).all()


def test_bernoulli_keeps_the_asked_share() -> None:
    like = torch.empty(400, 250, dtype=torch.float64)
    for keep in (0.1, 0.5, 0.93):
        kept = bernoulli(keep, like, seed=0, task="a", parameter=at(0))
        assert kept.dtype == torch.float64
        assert kept.shape == like.shape
        assert set(kept.unique().tolist()) == {0.0, 1.0}
        assert abs(float(kept.mean()) - keep) < 4 * (keep * (1 - keep) / like.numel()) ** 0.5
        each = bernoulli(torch.full_like(like, keep), like, seed=0, task="a", parameter=at(0))
        assert torch.equal(each, kept)


def test_bernoulli_at_the_ends() -> None:
    like = torch.empty(1000)
    assert bernoulli(0.0, like, seed=0, task="a", parameter=at(0)).sum() == 0
    assert bernoulli(1.0, like, seed=0, task="a", parameter=at(0)).sum() == 1000
    ends = torch.tensor([0.0, 1.0]).repeat(500)
    assert torch.equal(bernoulli(ends, like, seed=0, task="a", parameter=at(0)), ends)
