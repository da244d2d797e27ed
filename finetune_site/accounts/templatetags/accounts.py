"""For django-allauth's forms, which know nothing of the kit."""

from django import forms, template

from finetune_site.projects.forms import style

register = template.Library()


@register.filter
def styled(form: forms.BaseForm) -> forms.BaseForm:
    """The form, with the kit's classes on its widgets and no placeholders in place of labels."""
    for field in form.fields.values():
        style(field)
        field.widget.attrs.pop("placeholder", None)
    return form
