"""What people type about themselves."""

from typing import Any
from zoneinfo import available_timezones

from allauth.account.forms import LoginForm
from django import forms
from django.conf import settings

from finetune_site.accounts.access import is_welcome
from finetune_site.accounts.models import Profile
from finetune_site.projects.forms import StyledMixin


class SignInForm(LoginForm):
    """django-allauth's, with words for the two kinds of name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["login"].label = "Username or e-mail"
        self.fields["login"].widget.attrs |= {"autocomplete": "username", "autofocus": True}
        self.fields["login"].widget.attrs.pop("placeholder", None)
        self.fields["password"].help_text = ""  # the page has the link, where mail can be sent


class ProfileForm(StyledMixin, forms.ModelForm):
    time_zone = forms.ChoiceField(required=False, label="Time zone")

    class Meta:
        model = Profile
        fields = ["time_zone", "theme"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        zones = self.fields["time_zone"]
        assert isinstance(zones, forms.ChoiceField)
        zones.choices = [
            ("", f"The site's: {settings.TIME_ZONE}"),
            *((name, name.replace("_", " ")) for name in sorted(available_timezones()) if "/" in name),
        ]


class AddressForm(StyledMixin, forms.Form):
    """The address to which the link for a new account is sent."""

    email = forms.EmailField(label="E-mail")

    def clean_email(self) -> str:
        email: str = self.cleaned_data["email"]
        if not is_welcome(email):
            known = ", ".join(f"@{domain}" for domain in settings.SIGN_UP_DOMAINS)
            raise forms.ValidationError(f"Accounts by e-mail are for addresses of {known}. Ask for an invitation.")
        return email
