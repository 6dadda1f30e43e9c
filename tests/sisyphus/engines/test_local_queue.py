"""First come, first served, as far as it fits."""

from __future__ import annotations

from sisyphus.engines.local_queue import Entry, LocalQueue


def queue_of(*amounts):
    queue = LocalQueue()
    for number, amount in enumerate(amounts):
        queue.add(Entry((f"task{number}", 1), {}), (amount,))
    return queue


def names_in_order(queue, free):
    taken = iter(lambda: queue.take_first(lambda amounts: amounts[0] <= free), None)
    return [entry.key[0] for entry in taken]


def test_the_first_that_fits_comes_first():
    queue = queue_of(1, 4, 2, 1, 3)
    assert names_in_order(queue, 2) == ["task0", "task2", "task3"]
    assert names_in_order(queue, 4) == ["task1", "task4"]
    assert names_in_order(queue, 9) == []


def test_entries_can_leave_and_come_again():
    queue = queue_of(1, 1, 2)
    queue.remove(("task0", 1))
    queue.remove(("nobody", 1))
    assert ("task0", 1) not in queue
    queue.add(Entry(("task1", 1), {}), (2,))  # once more, and with other wishes
    assert sorted(entry.key[0] for entry in queue) == ["task1", "task2"]
    assert names_in_order(queue, 2) == ["task2", "task1"]
    queue = queue_of(1, 1)
    queue.clear()
    assert names_in_order(queue, 1) == []


def test_many_that_wait_are_not_gone_through():
    looked_at = []
    queue = queue_of(*[5] * 1000, 1)
    entry = queue.take_first(lambda amounts: looked_at.append(amounts) or amounts[0] <= 1)
    assert entry is not None
    assert entry.key[0] == "task1000"
    assert len(looked_at) == 2
