"""Who may make an account: whoever follows an open invitation, or has shown to own an address of a welcome domain.

The leave lies in the visitor's session, which only this site writes.
"""

import time
from dataclasses import asdict, dataclass

from django.conf import settings
from django.core import signing
from django.http import HttpRequest

from finetune_site.projects.models import Invitation
from finetune_site.projects.services import find_invitation

SESSION_KEY = "leave to make an account"
LEAVE_SECONDS = 3600
LINK_SECONDS = 24 * 3600
SALT = "finetune_site.accounts.address"


@dataclass(frozen=True)
class Leave:
    """`invitation`: the token that was followed. `email`: the address that was shown to be the visitor's own."""

    until: float
    invitation: str = ""
    email: str = ""

    @property
    def open_invitation(self) -> Invitation | None:
        return find_invitation(self.invitation) if self.invitation else None


def give_leave(request: HttpRequest, *, invitation: str = "", email: str = "") -> None:
    """Remember for an hour why this visitor may make an account."""
    leave = Leave(time.time() + LEAVE_SECONDS, invitation, email)
    request.session[SESSION_KEY] = asdict(leave)


def leave_of(request: HttpRequest) -> Leave | None:
    """Why this visitor may make an account; None: may not."""
    kept = request.session.get(SESSION_KEY)
    leave = Leave(**kept) if kept else None
    if leave is None or leave.until < time.time():
        return None
    return leave if leave.email or leave.open_invitation else None


def is_welcome(email: str) -> bool:
    """Whether people with such an address may make accounts by themselves."""
    return email.rpartition("@")[2].lower() in settings.SIGN_UP_DOMAINS


def link_token(email: str) -> str:
    """What a mailed link holds to show that its reader has the address."""
    return signing.dumps(email, salt=SALT)


def address_of(token: str) -> str | None:
    """The address that a mailed link was sent to, None when it is too old or not ours."""
    try:
        email: str = signing.loads(token, salt=SALT, max_age=LINK_SECONDS)
    except signing.BadSignature:
        return None
    return email if is_welcome(email) else None
