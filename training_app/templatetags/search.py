"""How what was searched for stands out in what was found."""

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from training_app import finding

register = template.Library()


@register.simple_tag
def marked(text: str, words: list[str]) -> SafeString:
    """The text, escaped, with every beginning of one of the words marked."""
    return format_html_join(
        "",
        "{}",
        ((format_html("<mark>{}</mark>", piece) if hit else piece,) for piece, hit in finding.marked(text, words)),
    )
