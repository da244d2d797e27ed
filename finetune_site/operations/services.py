"""What operators do to accounts: each verb one transaction, with its entry in the trail of the operators' desk."""

from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import transaction
from django.utils import timezone

from finetune_site.projects.services import audit, operators_desk


class AccountError(Exception):
    """The person can mend it; the message says how."""


@transaction.atomic
def disable_user(*, actor: User, user: User) -> None:
    """Nobody gets in under this name any more, and whoever is in is out at the next request. Work goes on."""
    if user.pk == actor.pk:
        raise AccountError("You cannot disable your own account. Ask another operator.")
    if not User.objects.filter(pk=user.pk, is_active=True).update(is_active=False):
        raise AccountError("The account is disabled already.")
    # Else they would live again with the account: who took a laptop away from somebody does not expect that.
    for session in Session.objects.filter(expire_date__gt=timezone.now()).iterator():
        if session.get_decoded().get("_auth_user_id") == str(user.pk):
            session.delete()
    audit(operators_desk(actor=actor), actor, "disabled the account", user)


@transaction.atomic
def enable_user(*, actor: User, user: User) -> None:
    if not User.objects.filter(pk=user.pk, is_active=False).update(is_active=True):
        raise AccountError("The account is enabled already.")
    audit(operators_desk(actor=actor), actor, "enabled the account", user)
