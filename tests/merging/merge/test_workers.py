import threading
import time
from collections.abc import Iterator

import pytest
import torch
from merging.merge.workers import Workers


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_results_are_in_order(num_threads: int) -> None:
    with Workers(num_threads) as workers:
        assert workers.map(lambda number: number**2, range(100)) == [number**2 for number in range(100)]
        assert workers.map(lambda number: number, []) == []


def test_lists_inside_of_lists() -> None:
    with Workers(3) as workers:
        found = workers.map(lambda row: sum(workers.map(lambda x: row * x, range(50))), range(20))
    assert found == [row * sum(range(50)) for row in range(20)]


def test_free_threads_help_at_an_inner_list() -> None:
    """One parameter at a time may be left, whose pieces several threads can merge."""
    both_are_here = threading.Barrier(2, timeout=10)
    with Workers(2) as workers:
        workers.map(lambda _: workers.map(lambda _: both_are_here.wait(), range(2)), range(1))


def test_items_are_made_when_a_thread_is_free() -> None:
    """What lazy items hold is held once for each thread."""
    begun, ended, most = [], [], []

    def items() -> Iterator[int]:
        for number in range(40):
            begun.append(number)
            yield number

    def work(number: int) -> None:
        most.append(len(begun) - len(ended))
        ended.append(number)

    with Workers(2) as workers:
        workers.map(work, items())
    assert len(ended) == 40 and max(most) <= 2


@pytest.mark.parametrize("num_threads", [1, 4])
def test_the_first_error_in_order_is_raised_and_ends_the_rest(num_threads: int) -> None:
    done = []

    def work(number: int) -> None:
        if number in (3, 4):
            time.sleep(0.02 if number == 3 else 0)
            raise ValueError(f"item {number}")
        time.sleep(0.0002)
        done.append(number)

    with Workers(num_threads) as workers:
        with pytest.raises(ValueError, match="item 3"):
            workers.map(work, range(1000))
        assert len(done) < 900
        assert workers.map(lambda number: number, range(3)) == [0, 1, 2], "the threads are still there"


def test_an_error_while_items_are_made() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    with Workers(2) as workers, pytest.raises(ValueError, match="no more"):
        workers.map(lambda number: number, items())


def test_claims_stay_below_the_limit() -> None:
    held, most, lock = [0], [0], threading.Lock()

    def work(num_bytes: int) -> None:
        with workers.claim(num_bytes):
            with lock:
                held[0] += num_bytes
                most[0] = max(most[0], held[0])
            time.sleep(0.002)
            with workers.claim(1000):  # part of the claim around it
                pass
            with lock:
                held[0] -= num_bytes

    with Workers(4, max_bytes=100) as workers:
        workers.map(work, [40, 40, 40, 30, 100, 10, 90, 5] * 3)
    assert 40 < most[0] <= 100


def test_a_claim_above_the_limit_is_granted_alone() -> None:
    with Workers(2, max_bytes=10) as workers, workers.claim(50):
        pass


def test_torch_has_one_thread_inside_and_as_many_as_before_after() -> None:
    before = torch.get_num_threads()
    with Workers(2) as workers:
        assert workers.map(lambda _: torch.get_num_threads(), range(8)) == [1] * 8
    assert torch.get_num_threads() == before
