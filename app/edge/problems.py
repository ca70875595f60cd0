"""The slugs that a failed job's record may carry, explained. The worker writes them; the gateway gives them a page.

Knows words only. What goes wrong between a client and the gateway is in errors.py.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JobProblem:
    """Why a job can fail: a title for a list and a paragraph for its page."""

    title: str
    meaning: str


JOB_PROBLEMS: dict[str, JobProblem] = {
    "attempts-exhausted": JobProblem(
        "The worker was lost each time",
        "The job was started as often as allowed and its worker died or fell silent each time. "
        "If other jobs finish, this one is likely to blame: try it smaller. If not, the operator should look at the "
        "workers.",
    ),
    "generation-failed": JobProblem(
        "The model raised an error",
        "An error inside the model or its scheduler ended this job; others are not affected. The detail says more. "
        "Another scheduler or step count may work.",
    ),
    "numerical-error": JobProblem(
        "The picture became not a number",
        "Values overflowed while the picture was made, also when it was tried again alone. "
        "A lower guidance scale, other dimensions or another scheduler usually helps.",
    ),
    "out-of-memory": JobProblem(
        "The device has not enough memory",
        "The job did not fit on the device even alone. Ask for a smaller picture or fewer at a time.",
    ),
    "content-blocked": JobProblem(
        "Its pictures are not shown",
        "The model's own safety checker flagged every picture of the job as not safe for work, and the operator has "
        "them withheld. The checker is sometimes wrong: another seed or other words usually help. Running the same job "
        "again would not.",
    ),
    "storage-denied": JobProblem(
        "The picture store refused the picture",
        "The store answered that the service may not write to it. The operator has to correct its access.",
    ),
    "input-missing": JobProblem(
        "A picture that the job needs is gone",
        "A picture that the job starts from, or is guided by, was no longer in the picture store when the job's turn "
        "came, or was not the file that had been stored. Send the picture again, and a new job with it.",
    ),
    "internal": JobProblem(
        "An error inside the service", "Something went wrong that is not the job's fault. The operator's log says what."
    ),
}


def job_problem_title(slug: str) -> str:
    """A title for any slug, also for one that a newer worker writes."""
    known = JOB_PROBLEMS.get(slug)
    return known.title if known else slug.replace("-", " ").capitalize()
