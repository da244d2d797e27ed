"""What people type about tokens."""

from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib.auth.models import User
from django.utils import timezone

from finetune_site.api.models import Scope
from finetune_site.projects.forms import StyledMixin
from finetune_site.projects.models import Project

DAYS = [("30", "30 days"), ("90", "90 days"), ("365", "a year"), ("", "without end")]


class TokenForm(StyledMixin, forms.Form):
    name = forms.CharField(max_length=80, help_text="What uses it, for example “nightly import”.")
    scopes = forms.MultipleChoiceField(
        choices=Scope.choices[1:],
        required=False,
        widget=forms.CheckboxSelectMultiple,
        label="Besides reading it may",
        help_text="A token never does more than you may yourself.",
    )
    project = forms.ModelChoiceField(
        Project.objects.none(), required=False, empty_label="every project of mine", label="In"
    )
    days = forms.ChoiceField(choices=DAYS, required=False, initial="90", label="Good for")

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        chooser = self.fields["project"]
        assert isinstance(chooser, forms.ModelChoiceField)
        chooser.queryset = Project.objects.visible_to(user).filter(is_desk=False)

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `make_token`."""
        data = self.cleaned_data
        ends: datetime | None = timezone.now() + timedelta(days=int(data["days"])) if data["days"] else None
        return {"name": data["name"], "scopes": data["scopes"], "project": data["project"], "expires_at": ends}
