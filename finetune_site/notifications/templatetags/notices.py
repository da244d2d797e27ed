"""The number at the bell."""

from django import template
from django.contrib.auth.models import User

from finetune_site.notifications.models import Notice

register = template.Library()
MOST = 100


@register.simple_tag
def unread(user: User) -> int:
    """How many notices one has not read, counted up to a hundred."""
    return Notice.objects.visible_to(user).unread().order_by()[:MOST].count()
