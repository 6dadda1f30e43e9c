"""The pure rules from markers and reports to states."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sisyphus import gs
from sisyphus.states import State, TaskEvidence, combined, task_id_state

NOTHING = TaskEvidence(finished=False, error=False)
STARTED = replace(NOTHING, has_log=True, patience_s=100.0, silence_s=1000.0, max_submissions=3)


@pytest.mark.parametrize(
    ("known", "state"),
    [
        (NOTHING, "runnable"),
        (replace(NOTHING, finished=True, error=True, engine="running"), "finished"),
        (replace(NOTHING, error=True, engine="running"), "error"),
        (replace(NOTHING, engine="queue"), "queue"),
        (replace(NOTHING, engine="running"), "running"),
        (replace(NOTHING, engine="queue_error"), "queue_error"),
        (replace(STARTED, engine="running"), "running"),
        (STARTED, "interrupted_not_resumable"),
        (replace(STARTED, resumable=True), "interrupted_resumable"),
        (replace(STARTED, silence_s=99.0), "running"),
        (replace(STARTED, silence_s=0.0, patience_s=0.0), "interrupted_not_resumable"),
        (replace(STARTED, num_submissions=3, resumable=True), "interrupted_resumable"),
        (replace(STARTED, num_submissions=4, resumable=True), "retry_error"),
        (replace(STARTED, num_submissions=4, silence_s=1.0), "running"),
    ],
)
def test_state_of_one_id(known, state):
    assert task_id_state(known) == state


@pytest.mark.parametrize(
    ("states", "state"),
    [
        (["finished", "finished"], "finished"),
        (["finished", "error", "running"], "error"),
        (["queue_error", "interrupted_resumable"], "queue_error"),
        (["interrupted_resumable", "interrupted_not_resumable"], "interrupted_resumable"),
        (["interrupted_not_resumable", "runnable"], "interrupted_not_resumable"),
        (["runnable", "queue"], "runnable"),
        (["queue", "running"], "queue"),
        (["running", "retry_error"], "running"),
        (["retry_error", "finished"], "retry_error"),
        ([], "unknown"),
    ],
)
def test_state_of_several_ids(states, state):
    assert combined([State(each) for each in states]) == state


def test_settings_name_all_states():
    for state in State:
        constant = getattr(gs, f"STATE_{state.name}")
        assert constant == state
        assert type(constant) is str
