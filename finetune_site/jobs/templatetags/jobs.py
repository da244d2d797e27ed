"""What pages say of a waiting job."""

from django import template
from django.template import Context

from finetune_site.jobs.forecast import Turn, forecast
from finetune_site.jobs.models import Job, JobState

register = template.Library()


@register.simple_tag(takes_context=True)
def turn(context: Context, job: Job) -> Turn | None:
    """A waiting job's turn; a page of many jobs puts all of them into its context as `job_turns`."""
    if job.state != JobState.QUEUED:
        return None
    turns = context["job_turns"] if "job_turns" in context else forecast(job.queue)
    return turns.get(job.pk)
