"""Telling people: news is found once a minute and kept as notices; mail and webhooks follow, tried a few times."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import httpx
from django.conf import settings
from django.contrib.auth.models import User
from django.core.mail import send_mail
from django.db import connection, transaction
from django.db.models import Min
from django.urls import reverse
from django.utils import timezone

from finetune_site.lib.sealing import seal
from finetune_site.notifications.models import Kind, LookedUntil, Notice, Wishes
from finetune_site.notifications.news import between

logger = logging.getLogger(__name__)
LAG = timedelta(seconds=5)  # what ended within it may not be committed yet
DAYS = 60
TRIES = 5
AT_ONCE = 100
SECONDS = 5.0
TURN_SECONDS = 60.0  # a short task may take two minutes, and one mail twenty seconds


def tell() -> int:
    """Keep the news since the last look as notices, and deliver what is due. Returns how many notices were made."""
    made = _keep_news()
    Notice.objects.filter(at__lt=timezone.now() - timedelta(days=DAYS)).delete()
    deliver()
    return made


@transaction.atomic
def _keep_news() -> int:
    LookedUntil.objects.get_or_create(pk=1, defaults={"at": timezone.now()})
    mark = LookedUntil.objects.select_for_update().get(pk=1)
    until = timezone.now() - LAG
    if until <= mark.at:
        return 0
    news = list(between(mark.at, until))
    people = {one.user for one in news}
    wishes = {wish.user_id: wish for wish in Wishes.objects.filter(user__in=people)}
    active = set(User.objects.filter(pk__in=people, is_active=True).values_list("pk", flat=True))
    notices = []
    for one in news:
        wish = wishes.get(one.user) or Wishes()
        if one.user in active and one.kind in wish.kinds:
            notice = Notice(user_id=one.user, project_id=one.project, kind=one.kind, text=one.text[:400], url=one.url)
            notice.at, notice.mail_due = one.at, wish.by_mail and settings.CAN_MAIL
            notice.webhook_due = bool(wish.webhook)
            notices.append(notice)
    Notice.objects.bulk_create(notices)
    mark.at = until
    mark.save(update_fields=["at"])
    return len(notices)


def deliver() -> None:
    """Send what is due: one mail a person with all of it, one call of the webhook a notice. A turn that is lost after
    the sending and before the row says so sends again: better twice than never. One turn at a time."""
    with _turn() as is_ours:
        if is_ours:
            _deliver()


def _deliver() -> None:
    ends = time.monotonic() + TURN_SECONDS
    # Who was tried least comes first, so that an address which never answers keeps nobody waiting.
    waiting = Notice.objects.due().order_by().values("user").annotate(least=Min("tries"), first=Min("pk"))
    for entry in waiting.order_by("least", "first"):
        if time.monotonic() > ends:
            return
        due = Notice.objects.due().filter(user=entry["user"]).select_related("user", "project")
        mine = list(due.order_by("pk")[:AT_ONCE])
        if not mine:
            continue
        user, wishes = mine[0].user, Wishes.of(mine[0].user)
        _mail(user, [notice for notice in mine if notice.mail_due])
        _call(wishes.webhook, [notice for notice in mine if notice.webhook_due])


@contextmanager
def _turn() -> Iterator[bool]:
    """Whether nobody else delivers at this moment; held by the database as long as we are connected."""
    with connection.cursor() as cursor:
        cursor.execute("select pg_try_advisory_lock(hashtextextended('deliver notices', 2))")
        is_ours = bool(cursor.fetchone()[0])
        try:
            yield is_ours
        finally:
            if is_ours:
                cursor.execute("select pg_advisory_unlock(hashtextextended('deliver notices', 2))")


def _mail(user: User, notices: list[Notice]) -> None:
    if not notices:
        return
    if not (settings.CAN_MAIL and user.email):
        Notice.objects.filter(pk__in=[notice.pk for notice in notices]).update(mail_due=False)
        return
    lines = [f"{notice.text} ({notice.project})\n{address(notice)}" for notice in notices]
    lines.append(f"What you hear of: {settings.SITE_URL}{reverse('wishes')}")
    subject = f"Finetune Site: {notices[0].text}" if len(notices) == 1 else f"Finetune Site: {len(notices)} notices"
    try:
        send_mail(" ".join(subject.split())[:200], "\n\n".join(lines), settings.DEFAULT_FROM_EMAIL, [user.email])
    except OSError as error:
        _failed(notices, "mail_due", error)
    else:
        Notice.objects.filter(pk__in=[notice.pk for notice in notices]).update(mail_due=False)


def _call(webhook: str, notices: list[Notice]) -> None:
    if notices and not is_allowed(webhook):
        Notice.objects.filter(pk__in=[notice.pk for notice in notices]).update(webhook_due=False)
        return
    for notice in notices:
        told = {
            "text": f"{notice.text} ({notice.project}) {address(notice)}",  # what chat services show
            "kind": notice.kind,
            "project": str(notice.project),
            "url": address(notice),
            "at": notice.at.isoformat(),
        }
        try:
            httpx.post(webhook, json=told, timeout=SECONDS, follow_redirects=False).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            _failed([other for other in notices if other.webhook_due], "webhook_due", error)
            return  # an address that does not answer is asked once a turn
        notice.webhook_due = False
        Notice.objects.filter(pk=notice.pk).update(webhook_due=False)


def _failed(notices: list[Notice], flag: str, error: Exception) -> None:
    # Neither address nor text: a log is no place for either.
    logger.warning("notices of user %s: %s: %s", notices[0].user_id, flag, type(error).__name__)
    for notice in notices:
        notice.tries += 1
        setattr(notice, flag, notice.tries < TRIES)
    Notice.objects.bulk_update(notices, ["tries", flag])


def address(notice: Notice) -> str:
    return settings.SITE_URL + notice.get_absolute_url()


def is_allowed(webhook: str) -> bool:
    """Whether the operators named its host: the site asks no other on a user's word."""
    parts = urlsplit(webhook)
    return f"{parts.scheme}://{parts.netloc}" in settings.WEBHOOK_HOSTS


def save_wishes(*, user: User, kinds: list[str], by_mail: bool, webhook: str | None) -> None:
    """Keep what a person wants to hear of; `webhook`: None leaves the address as it is."""
    fields: dict[str, object] = {"kinds": [kind for kind in Kind.values if kind in kinds], "by_mail": by_mail}
    if webhook is not None:
        fields["sealed_webhook"] = seal(webhook, settings.SECRET_KEY) if webhook else ""
    Wishes.objects.update_or_create(user=user, defaults=fields)


def read(*, user: User, pk: int | None = None) -> int:
    """Mark one of a person's notices as read, or all; returns how many were not."""
    unread = Notice.objects.filter(user=user).unread()
    return (unread.filter(pk=pk) if pk else unread).update(read_at=timezone.now())
