"""Template tags every page may use: icons, state badges, sizes and durations in words."""

from datetime import timedelta
from functools import lru_cache

from django import template
from django.templatetags.static import static
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()

_STATE_LOOK = {
    "queued": ("secondary", "clock"),
    "running": ("blue", "loader"),
    "succeeded": ("green", "check"),
    "failed": ("red", "alert-triangle"),
    "cancelled": ("yellow", "player-stop"),
    "draft": ("secondary", "pencil"),
    "approved": ("green", "check"),
    "rejected": ("red", "x"),
    "sealed": ("purple", "lock"),
    "ready": ("green", "check"),
    "in step": ("green", "check"),
    "waiting": ("yellow", "hourglass"),
    "paused": ("orange", "alert-triangle"),
    "working": ("blue", "loader"),
    "held": ("orange", "hourglass"),
    "published": ("green", "check"),
    "withdrawn": ("secondary", "ban"),
    "verified": ("green", "check"),
    "contradicted": ("red", "alert-triangle"),
    "again": ("yellow", "refresh"),
    "quantised": ("orange", "alert-triangle"),
    "fine": ("green", "check"),
    "look": ("orange", "alert-triangle"),
    "broken": ("red", "alert-triangle"),
}


@register.simple_tag
@lru_cache(500)  # a page of a list has a hundred, and each asked where the sprite is
def icon(name: str, css: str = "") -> SafeString:
    """An icon of the sprite; decoration only, so hidden from screen readers."""
    return format_html(
        '<svg class="icon {}" aria-hidden="true"><use href="{}#{}"></use></svg>',
        css,
        static("vendor/tabler-icons/sprite.svg"),
        name,
    )


@register.simple_tag
def badge(state: str, text: str = "") -> SafeString:
    """The one look of a state, everywhere."""
    colour, symbol = _STATE_LOOK.get(state, ("secondary", "point"))
    label = text or state.replace("_", " ")
    return format_html('<span class="badge bg-{}-lt">{} {}</span>', colour, icon(symbol, "icon-inline"), label)


@register.filter
def duration(seconds: float | timedelta | None) -> str:
    """Seconds in words: “1 h 20 min”, “3 min 5 s”, “4 s”; a dash for None."""
    if seconds is None:
        return "–"
    total = round(seconds.total_seconds() if isinstance(seconds, timedelta) else float(seconds))
    hours, rest = divmod(total, 3600)
    minutes, secs = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {secs} s" if minutes else f"{secs} s"


@register.filter
def percent(part: float | None, whole: float | None = 1) -> str:
    """`part` of `whole` in whole per cent; a dash when there is no whole."""
    return f"{100 * part / whole:.0f} %" if part is not None and whole else "–"


@register.filter
def off(error: float | None) -> str:
    """A relative error in words: “12 % too high”, “3 % too low”, “right”; a dash for None."""
    if error is None:
        return "–"
    share = round(100 * abs(error))
    return f"{share} % too {'high' if error > 0 else 'low'}" if share else "right"


@register.filter
def energy(kilowatt_hours: float) -> str:
    """Energy in the unit that leaves something to read: “1.3 kWh”, “0.04 Wh”."""
    return f"{kilowatt_hours:.2g} kWh" if kilowatt_hours >= 0.1 else f"{1000 * kilowatt_hours:.2g} Wh"


@register.filter
def get(mapping: dict[str, object], key: str) -> object:
    """A value of a mapping under a key known only at run time."""
    return mapping.get(key)
