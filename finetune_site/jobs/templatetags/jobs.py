"""What pages say of a waiting job."""

from django import template
from django.template import Context

from finetune_site.jobs.forecast import Turn, forecast
from finetune_site.jobs.models import SLOW_QUEUES, Job, JobState

register = template.Library()


@register.simple_tag(takes_context=True)
def turn(context: Context, job: Job) -> Turn | None:
    """A waiting job's turn in a slow queue; the page of all jobs puts those of every queue into its context."""
    if job.state != JobState.QUEUED:
        return None
    if "job_turns" in context:
        found: Turn | None = context["job_turns"].get(job.pk)
        return found
    return forecast(job.queue).get(job.pk) if job.queue in SLOW_QUEUES else None
