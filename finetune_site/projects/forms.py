"""What people type about projects and members."""

from typing import Any

from django import forms
from django.contrib.auth.models import User

from finetune_site.projects.models import Project, Role

SITE_LIMIT = "Empty: as much as the site lets any project take. 0: nothing more."


class StyledMixin:
    """Gives every widget the kit's class, so that a page needs no markup of its own for a field."""

    fields: dict[str, forms.Field]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            style(field)


def style(field: forms.Field) -> None:
    """Set the kit's class for the kind of a field's widget."""
    widget = field.widget
    if isinstance(widget, forms.CheckboxInput | forms.CheckboxSelectMultiple | forms.RadioSelect):
        css = "form-check-input"
    elif isinstance(widget, forms.Select):
        css = "form-select"
    else:
        css = "form-control"
    widget.attrs["class"] = f"{widget.attrs.get('class', '')} {css}".strip()


class ProjectForm(StyledMixin, forms.ModelForm):
    class Meta:
        model = Project
        fields = ["name", "description", "needs_two"]
        widgets = {"description": forms.Textarea(attrs={"rows": 3})}
        help_texts = {
            "name": "For example the product or the department whose documents it holds.",
            "description": "What the model should become good at, in a sentence or two.",
            "needs_two": "No example is sealed that one person alone made, approved and sealed, and whoever trained a "
            "model does not publish it. This holds for owners and operators too.",
        }


class LimitsForm(StyledMixin, forms.Form):
    """How much of the disk and of the devices a project may take."""

    disk_limit_gb = forms.IntegerField(
        required=False, min_value=0, max_value=10**6, label="Disk, in GB", help_text=SITE_LIMIT
    )
    device_hours_limit = forms.IntegerField(
        required=False, min_value=0, max_value=10**6, label="Device hours a month", help_text=SITE_LIMIT
    )


class TrailForm(StyledMixin, forms.Form):
    """The filter of a project's trail."""

    words = forms.CharField(required=False, label="Words", max_length=100)
    person = forms.ModelChoiceField(User.objects.none(), required=False, label="Who", empty_label="anybody")
    since = forms.DateField(required=False, label="From", widget=forms.DateInput(attrs={"type": "date"}))
    until = forms.DateField(required=False, label="To", widget=forms.DateInput(attrs={"type": "date"}))

    def __init__(self, project: Project, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        actors = project.audit_entries.order_by().values("actor").distinct()
        people = self.fields["person"]
        assert isinstance(people, forms.ModelChoiceField)
        people.queryset = User.objects.filter(pk__in=actors).order_by("username")


class InviteForm(StyledMixin, forms.Form):
    email = forms.EmailField(
        label="E-mail address",
        help_text="Whoever has the link may join; the address tells you whom it was for.",
    )
    role = forms.ChoiceField(choices=Role.choices)


class AddMemberForm(StyledMixin, forms.Form):
    username = forms.CharField(help_text="The name the person logs in with.")
    role = forms.ChoiceField(choices=Role.choices)

    def clean_username(self) -> User:
        name = self.cleaned_data["username"].strip()
        user = User.objects.filter(username=name, is_active=True).first()
        if user is None:
            raise forms.ValidationError(f"Nobody here logs in as “{name}”. Invite the person by e-mail instead.")
        return user


class RoleForm(StyledMixin, forms.Form):
    role = forms.ChoiceField(choices=Role.choices)
