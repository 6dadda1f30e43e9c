"""A graph as lines of text: each target, and below it what it needs."""

from __future__ import annotations

from collections.abc import Iterator

from sisyphus.view.facts import GraphFacts, JobFacts


def lines(facts: GraphFacts) -> Iterator[str]:
    """Yield the lines; a job is unfolded once, and marked ``...`` from then on."""
    jobs = {job.id: job for job in facts.jobs}
    unfolded: set[str] = set()
    for target in facts.targets:
        yield f"{target.name} ({'done' if target.done else 'not done'})"
        waiting = [(job_id, 1) for job_id in reversed(target.jobs)]
        while waiting:
            job_id, depth = waiting.pop()
            job = jobs[job_id]
            again = job_id in unfolded and bool(job.inputs)
            yield f"{'  ' * depth}{_text(job)}{' ...' if again else ''}"
            if not again:
                unfolded.add(job_id)
                waiting.extend((creator, depth + 1) for creator in reversed(job.inputs))


def _text(job: JobFacts) -> str:
    names = " ".join([*job.aliases, *([f"[{job.vis_name}]"] if job.vis_name else [])])
    return f"{job.id} {names} ({job.state})".replace("  ", " ")
