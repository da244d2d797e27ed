"""What is done to accounts: each verb one transaction, with its entry in the trail of the operators' desk."""

import logging

from allauth.account import app_settings
from allauth.account.utils import user_pk_to_url_str
from allauth.mfa.models import Authenticator
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.mail import send_mail
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from finetune_site.accounts.access import link_token
from finetune_site.accounts.models import Profile
from finetune_site.projects.services import audit, operators_desk

logger = logging.getLogger(__name__)


class AccountError(Exception):
    """The person can mend it; the message says how."""


def save_profile(*, user: User, **fields: str) -> None:
    """Keep what a person chose, field by field: `time_zone`, `theme`."""
    Profile.objects.update_or_create(user=user, defaults=fields)


def mail_sign_up_link(*, email: str, base_url: str) -> None:
    """Send the link with which the owner of an address makes an account. Whoever has one already is told so instead:
    the page looks the same to whoever asks for an address that is not theirs. `AccountError`: no mail can be sent."""
    if User.objects.filter(email__iexact=email).exists():
        text = f"You have an account here already. Log in, or set a new password: {base_url}{reverse('account_login')}"
    else:
        url = base_url + reverse("sign_up_link", args=[link_token(email)])
        text = f"Make your account within a day:\n\n{url}\n\nIf you did not ask for this, do nothing."
    try:
        send_mail("Finetune Site: your account", text, settings.DEFAULT_FROM_EMAIL, [email])
    except OSError as error:
        logger.warning("a link could not be mailed", exc_info=True)
        raise AccountError("Mail cannot be sent now. Try again in a few minutes, or ask an operator.") from error


@transaction.atomic
def disable_user(*, actor: User, user: User) -> None:
    """Nobody gets in under this name any more, and whoever is in is out at the next request. Work goes on."""
    if user.pk == actor.pk:
        raise AccountError("You cannot disable your own account. Ask another operator.")
    if not User.objects.filter(pk=user.pk, is_active=True).update(is_active=False):
        raise AccountError("The account is disabled already.")
    # Else they would live again with the account: who took a laptop away from somebody does not expect that.
    end_access(user)
    audit(operators_desk(actor=actor), actor, "disabled the account", user)


@transaction.atomic
def enable_user(*, actor: User, user: User) -> None:
    if not User.objects.filter(pk=user.pk, is_active=False).update(is_active=True):
        raise AccountError("The account is enabled already.")
    audit(operators_desk(actor=actor), actor, "enabled the account", user)


@transaction.atomic
def take_off_second_factor(*, actor: User, user: User) -> None:
    """For who lost the device and the codes: the password alone opens the account until another factor is set up."""
    if not Authenticator.objects.filter(user=user).delete()[0]:
        raise AccountError("The account has no second factor.")
    end_access(user)
    audit(operators_desk(actor=actor), actor, "took the second factor off", user)


@transaction.atomic
def password_link(*, actor: User, user: User) -> str:
    """The path of the page on which its reader sets this account's password, once. Good for
    `PASSWORD_RESET_TIMEOUT` seconds, and until the password or the last login changes."""
    if not user.is_active:
        raise AccountError("The account is disabled. Enable it first.")
    token = app_settings.PASSWORD_RESET_TOKEN_GENERATOR().make_token(user)
    audit(operators_desk(actor=actor), actor, "made a link to set the password of", user)
    names = {"uidb36": user_pk_to_url_str(user), "key": token}
    return reverse("account_reset_password_from_key", kwargs=names)


def end_access(user: User) -> None:
    """Whoever is in under this name is out at the next request, and its API tokens open nothing any more."""
    user.api_tokens.all().delete()
    for session in Session.objects.filter(expire_date__gt=timezone.now()).iterator():
        if session.get_decoded().get("_auth_user_id") == str(user.pk):
            session.delete()
