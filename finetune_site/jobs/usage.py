"""How long a project may compute on the devices: counted by attempts, limited by calendar months (UTC).

Counted are the jobs of the queue `gpu`: trainings, evaluations, benchmarks. Chats are the site's own job, for all
projects together, and are not.
"""

from datetime import UTC, datetime

from django.conf import settings
from django.db import connection

from finetune_site.jobs.models import SLOW_QUEUES
from finetune_site.projects.models import Project


def device_limit(project: Project) -> int | None:
    """Hours a month; None: without a limit."""
    return settings.PROJECT_DEVICE_HOURS if project.device_hours_limit is None else project.device_hours_limit


def month_start(now: datetime | None = None) -> datetime:
    return (now or datetime.now(UTC)).astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def used_seconds(project: Project) -> float:
    """Device seconds since the start of the month, those of jobs that run at this moment too."""
    return sum(seconds for _, _, seconds in used_by(project))


def used_by(project: Project) -> list[tuple[str, str, float]]:
    """The same by person and kind of job: (username, kind, device seconds), most first."""
    since = month_start()
    with connection.cursor() as cursor:
        cursor.execute(_USED, [since, project.pk, since, since, project.pk, list(SLOW_QUEUES)])
        return [(name, kind, float(seconds)) for name, kind, seconds in cursor.fetchall()]


def device_refusal(project: Project) -> str:
    """Why nothing more may start on the devices in a project; empty when it may."""
    limit = device_limit(project)
    if limit is None or used_seconds(project) < limit * 3600:
        return ""
    return (
        f"The project has used up its {limit} device hours of this month (UTC). Ask an operator for more, or go on "
        "next month."
    )


_USED = """
    select auth_user.username, used.kind, sum(used.seconds) from (
        select owner_id, kind, devices * extract(epoch from ended_at - greatest(past.started_at, %s)) as seconds
        from jobs_deviceuse past join jobs_job on jobs_job.id = past.job_id where project_id = %s and ended_at > %s
        union all
        select owner_id, kind,
            greatest(1, cardinality(held_slots)) * extract(epoch from clock_timestamp() - greatest(started_at, %s))
        from jobs_job where project_id = %s and queue = any(%s) and state = 'running'
    ) used join auth_user on auth_user.id = used.owner_id
    group by auth_user.username, used.kind order by sum(used.seconds) desc
"""
