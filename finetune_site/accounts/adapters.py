"""Where django-allauth asks the site: who may sign up, what an invitation brings, how secrets lie at rest."""

import logging
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.models import EmailAddress
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialLogin
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest
from django.shortcuts import redirect

from finetune_site.accounts.access import is_welcome, leave_of
from finetune_site.lib.sealing import seal, unseal
from finetune_site.projects.services import ProjectError, accept_invitation

logger = logging.getLogger(__name__)


class AccountAdapter(DefaultAccountAdapter):
    """Sign-up is closed but for who has leave; whoever came by an invitation is a member at once."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return leave_of(request) is not None

    def clean_email(self, email: str) -> str:
        """Whoever may make an account because of an address makes it with that address."""
        leave = None if self.request.user.is_authenticated else leave_of(self.request)
        if leave and leave.email and leave.email.lower() != email.lower():
            raise ValidationError(f"The link was sent to {leave.email}: the account is made with this address.")
        return super().clean_email(email)

    def is_email_verified(self, request: HttpRequest, email: str) -> bool:
        leave = leave_of(request)
        shown = leave.email if leave else ""
        return bool(shown) and shown.lower() == email.lower()

    def save_user(self, request: HttpRequest, user: User, form: Any, commit: bool = True) -> User:
        """Both or neither: the account and the membership that the invitation gives."""
        with transaction.atomic():
            saved: User = super().save_user(request, user, form, commit)
            if commit:
                _join(request, saved)
        return saved

    def get_signup_redirect_url(self, request: HttpRequest) -> str:
        membership = request.user.memberships.order_by("-pk").first() if request.user.is_authenticated else None
        return membership.project.get_absolute_url() if membership else super().get_signup_redirect_url(request)

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        if not settings.CAN_MAIL:
            return
        try:
            super().send_mail(template_prefix, email, context)
        except OSError:
            logger.warning("a message could not be mailed", exc_info=True)
            messages.error(self.request, "Mail cannot be sent now. Try again in a few minutes, or ask an operator.")

    def format_email_subject(self, subject: str) -> str:
        return f"Finetune Site: {subject}"


class SocialAccountAdapter(DefaultSocialAccountAdapter):
    """People of the organisation's OpenID Connect provider: one account, however they sign in."""

    def pre_social_login(self, request: HttpRequest, sociallogin: SocialLogin) -> None:
        """Connect to an account only where both sides have seen that the address is the person's own."""
        if sociallogin.is_existing or request.user.is_authenticated:
            return
        for email in _verified(sociallogin):
            ours = EmailAddress.objects.select_related("user").filter(email__iexact=email, verified=True).first()
            if ours:
                sociallogin.connect(request, ours.user)
                return

    def is_open_for_signup(self, request: HttpRequest, sociallogin: SocialLogin) -> bool:
        return leave_of(request) is not None or any(is_welcome(email) for email in _verified(sociallogin))

    def save_user(self, request: HttpRequest, sociallogin: SocialLogin, form: Any = None) -> User:
        with transaction.atomic():
            user: User = super().save_user(request, sociallogin, form)
            if form is None:  # else the account adapter did it
                _join(request, user)
        return user


class MFAAdapter(DefaultMFAAdapter):
    """Second factors are sealed under the site's key, as other secrets are."""

    def encrypt(self, text: str) -> str:
        return seal(text, settings.SECRET_KEY)

    def decrypt(self, encrypted_text: str) -> str:
        return unseal(encrypted_text, settings.SECRET_KEY)

    def get_totp_issuer(self) -> str:
        return f"Finetune Site ({super().get_totp_issuer()})"


def _join(request: HttpRequest, user: User) -> None:
    leave = leave_of(request)
    invitation = leave.open_invitation if leave else None
    if invitation:
        try:
            accept_invitation(user=user, invitation=invitation)
        except ProjectError:  # another took it in this very moment: its page says what to do
            raise ImmediateHttpResponse(redirect("join", leave.invitation if leave else "")) from None


def _verified(sociallogin: SocialLogin) -> list[str]:
    return [address.email for address in sociallogin.email_addresses if address.verified]
