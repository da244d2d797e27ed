"""What a person wants to hear of, and where."""

from typing import Any

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import URLValidator

from finetune_site.notifications.models import Kind, Wishes
from finetune_site.notifications.services import is_allowed
from finetune_site.projects.forms import StyledMixin


class WishesForm(StyledMixin, forms.Form):
    kinds = forms.MultipleChoiceField(
        choices=Kind.choices, required=False, label="Tell me", widget=forms.CheckboxSelectMultiple
    )
    by_mail = forms.BooleanField(required=False, label="By e-mail too")
    webhook = forms.CharField(
        required=False,
        max_length=500,
        label="Call this address too",
        help_text="Of a chat or another program; it gets JSON with the fields text, kind, project, url and at.",
    )
    forget_webhook = forms.BooleanField(required=False, label="Forget the address")

    def __init__(self, *args: Any, wishes: Wishes, **kwargs: Any) -> None:
        kwargs["initial"] = {"kinds": wishes.kinds, "by_mail": wishes.by_mail}
        super().__init__(*args, **kwargs)
        if not settings.CAN_MAIL:
            del self.fields["by_mail"]
        if not settings.WEBHOOK_HOSTS:
            del self.fields["webhook"]
        elif wishes.sealed_webhook:
            self.fields["webhook"].help_text = "One is set, and not shown. Type another to replace it."
        if not wishes.sealed_webhook:
            del self.fields["forget_webhook"]

    def clean_webhook(self) -> str:
        address: str = self.cleaned_data["webhook"].strip()
        if not address:
            return ""
        try:
            URLValidator(schemes=["https", "http"])(address)
        except ValidationError:
            raise forms.ValidationError("Enter a whole address that begins with https://.") from None
        if not is_allowed(address):
            known = ", ".join(settings.WEBHOOK_HOSTS)
            raise forms.ValidationError(f"The operators of this site allow addresses of {known}.")
        return address

    @property
    def arguments(self) -> dict[str, Any]:
        """As `save_wishes` takes them."""
        data = self.cleaned_data
        webhook = data.get("webhook") or ("" if data.get("forget_webhook") else None)
        return {"kinds": data["kinds"], "by_mail": data.get("by_mail", False), "webhook": webhook}
