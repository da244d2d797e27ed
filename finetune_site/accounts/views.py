"""What django-allauth has no page for: the profile, invitations, and accounts by a mailed link."""

from allauth.account import views as allauth
from allauth.decorators import rate_limit
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.http import urlencode
from django.views.decorators.http import require_http_methods, require_POST
from django.views.generic import RedirectView, TemplateView

from finetune_site.accounts import services
from finetune_site.accounts.access import address_of, give_leave
from finetune_site.accounts.forms import AddressForm, ProfileForm
from finetune_site.accounts.models import Profile, Theme
from finetune_site.projects.access import SignedInRequest
from finetune_site.projects.services import ProjectError, accept_invitation, find_invitation


@method_decorator(login_not_required, name="dispatch")
class OldLogin(RedirectView):
    """The address that people have in their bookmarks."""


@require_http_methods(["GET", "POST"])
def profile(request: SignedInRequest) -> HttpResponse:
    form = ProfileForm(request.POST or None, instance=Profile.of(request.user))
    if form.is_valid():
        services.save_profile(user=request.user, **form.cleaned_data)
        messages.success(request, "Saved.")
        return redirect("profile")
    return render(request, "accounts/profile.html", {"form": form})


@require_POST
def theme(request: SignedInRequest) -> HttpResponse:
    """The switch in the head of every page."""
    chosen = request.POST.get("theme", "")
    if chosen not in Theme.values:
        return HttpResponse("theme must be light, dark or empty.", status=400, content_type="text/plain")
    services.save_profile(user=request.user, theme=chosen)
    return HttpResponse(status=204)


@login_not_required
@require_http_methods(["GET", "POST"])
def join(request: SignedInRequest, token: str) -> HttpResponse:
    """Follow an invitation: as who one is, or with a new account."""
    invitation = find_invitation(token)
    if invitation is None:
        return render(request, "projects/join_closed.html", status=404)
    if not request.user.is_authenticated:
        give_leave(request, invitation=token)
    elif request.method == "POST":
        try:
            accept_invitation(user=request.user, invitation=invitation)
        except ProjectError:
            return render(request, "projects/join_closed.html", status=404)
        return redirect(invitation.project)
    return render(request, "projects/join.html", {"invitation": invitation})


@login_not_required
@require_http_methods(["GET", "POST"])
@rate_limit(action="signup")
def sign_up(request: HttpRequest) -> HttpResponse:
    """Ask for the address to which the link for a new account is sent."""
    if not (settings.CAN_MAIL and settings.SIGN_UP_DOMAINS):
        raise Http404
    form = AddressForm(request.POST or None)
    sent = ""
    if form.is_valid():
        email = form.cleaned_data["email"]
        try:
            services.mail_sign_up_link(email=email, base_url=request.build_absolute_uri("/").rstrip("/"))
            sent = email
        except services.AccountError as error:
            form.add_error(None, str(error))
    return render(request, "accounts/sign_up.html", {"form": form, "sent": sent})


@login_not_required
@require_http_methods(["GET"])
def sign_up_link(request: HttpRequest, token: str) -> HttpResponse:
    """The mailed link: its reader has the address, and may make an account with it."""
    email = address_of(token)
    if email is None:
        return render(request, "accounts/link_closed.html", status=404)
    give_leave(request, email=email)
    return redirect(f"{reverse('account_signup')}?{urlencode({'email': email})}")


class Addresses(TemplateView):
    """django-allauth's where the site sends mail, which confirms an address; else what to do instead."""

    template_name = "accounts/no_mail_address.html"

    def dispatch(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponseBase:
        if settings.CAN_MAIL:
            return allauth.email(request, *args, **kwargs)
        return super().dispatch(request, *args, **kwargs)


@method_decorator(login_not_required, name="dispatch")
class PasswordReset(TemplateView):
    """django-allauth's where the site sends mail; else what to do instead."""

    template_name = "accounts/no_mail.html"

    def dispatch(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponseBase:
        if settings.CAN_MAIL:
            return allauth.password_reset(request, *args, **kwargs)
        return super().dispatch(request, *args, **kwargs)
