"""`/jobs`: what operators asked for and a process of maintenance does, with what came of it."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response, get
from litestar.response import Redirect

from metrics_service.fleet.jobs import Job
from metrics_service.fleet.reading import find_slugs, list_jobs, list_processes
from metrics_service.fleet.views import JobsQuery
from metrics_service.operations.dependencies import OperatorRequest, reading
from metrics_service.operations.pages.asked import Asked
from metrics_service.operations.pages.page import REFRESH_S, page
from metrics_service.tenants.new_tenant import schema_name_of
from metrics_service.web.query import page_query

PATH = "/jobs"

STATUSES: dict[str | None, str] = {
    None: "All",
    "queued": "Waiting",
    "running": "Running",
    "failed": "Failed",
    "done": "Done",
}
KINDS = {
    "provision": "Make a tenant",
    "upgrade": "Upgrade schemas",
    "suspend": "Suspend a tenant",
    "resume": "Resume a tenant",
}
NAMED = 3


class Shown(msgspec.Struct, frozen=True):
    """A job as a person reads it."""

    job: Job
    what: str
    subject: str
    outcome: str

    @property
    def share(self) -> float | None:
        """How much of it is done."""
        return self.job.done / self.job.total if self.job.total else None


@get(PATH)
async def get_jobs(request: OperatorRequest) -> Response[bytes]:
    query = page_query(request, JobsQuery)
    key = request.user.key_hash
    async with reading(request) as connection:
        found = await list_jobs(connection, key, query)
        slugs = await find_slugs(connection, key)
        processes = await list_processes(connection, key)
    asked = Asked(PATH, query)
    names = {str(tenant_id): slug for tenant_id, slug in slugs.items()}
    names |= {schema_name_of(tenant_id): slug for tenant_id, slug in slugs.items()}
    return page(
        request,
        "jobs.html",
        values={
            "asked": asked,
            "found": found,
            "rows": [shown_of(job, names) for job in found.rows],
            "statuses": asked.choices("status", STATUSES),
            "is_worked_on": any(
                one.kind == "maintenance" and not one.is_silent for one in processes
            ),
        },
        operator=request.user,
        title="Jobs",
        # Whoever turned to another page is reading.
        refresh_s=REFRESH_S if query.page == 1 else None,
    )


def job_page(job: Job) -> Redirect:
    """Where to see what becomes of a job."""
    return Redirect(f"{PATH}#job-{job.id}", status_code=303)


def shown_of(job: Job, names: dict[str, str]) -> Shown:
    """`names` are tenants' slugs by id and by schema."""
    return Shown(
        job=job,
        what=KINDS.get(job.kind, job.kind),
        subject=_subject(job.arguments, names),
        outcome=_outcome(job, names),
    )


def _subject(arguments: dict[str, Any], names: dict[str, str]) -> str:
    if "slug" in arguments:
        return f"{arguments['slug']} ({arguments.get('plan', '')})"
    about = arguments.get("tenant_id") or arguments.get("schema")
    return names.get(about, about) if about else "all that are behind or failed"


def _outcome(job: Job, names: dict[str, str]) -> str:
    """What came of it, if there is more to say than its status."""
    if job.error:
        return job.error
    result = job.result if isinstance(job.result, dict) else {}
    if job.kind != "upgrade" or "upgraded" not in result:
        return ""
    schemas = [one["schema_name"] for one in result.get("failed", ())]
    failed = [names.get(schema, schema) for schema in schemas]
    told = f"{result['upgraded']} upgraded"
    if failed:
        more = f" and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
        told += f", {len(failed)} failed: {', '.join(failed[:NAMED])}{more}"
    return told
