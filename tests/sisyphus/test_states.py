"""The pure rules from markers and reports to states."""

from __future__ import annotations

import pytest
from sisyphus import gs
from sisyphus.states import State, TaskEvidence, combined, task_id_state

NOTHING = TaskEvidence(finished=False, error=False)
STARTED = NOTHING._replace(has_log=True, patience_s=100.0, silence_s=1000.0, max_submissions=3)


@pytest.mark.parametrize(
    ("known", "state"),
    [
        (NOTHING, "runnable"),
        (NOTHING._replace(finished=True, error=True, engine="running"), "finished"),
        (NOTHING._replace(error=True, engine="running"), "error"),
        (NOTHING._replace(engine="queue"), "queue"),
        (NOTHING._replace(engine="running"), "running"),
        (NOTHING._replace(engine="queue_error"), "queue_error"),
        (STARTED._replace(engine="running"), "running"),
        (STARTED, "interrupted_not_resumable"),
        (STARTED._replace(resumable=True), "interrupted_resumable"),
        (STARTED._replace(silence_s=99.0), "running"),
        (STARTED._replace(silence_s=0.0, patience_s=0.0), "interrupted_not_resumable"),
        (STARTED._replace(num_submissions=3, resumable=True), "interrupted_resumable"),
        (STARTED._replace(num_submissions=4, resumable=True), "retry_error"),
        (STARTED._replace(num_submissions=4, silence_s=1.0), "running"),
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
