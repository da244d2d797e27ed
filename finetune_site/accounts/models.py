"""What a person chose for themselves; name, address and password are Django's own `User`."""

from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib.auth.models import User
from django.db import models
from django.db.models import Q


class Theme(models.TextChoices):
    SYSTEM = "", "As my system says"
    LIGHT = "light", "Light"
    DARK = "dark", "Dark"


class Profile(models.Model):
    """A person without a row has everything as it is by default: see `of`."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE, related_name="profile")
    time_zone = models.CharField(max_length=64, blank=True)  # empty: the site's
    theme = models.CharField(max_length=5, choices=Theme.choices, blank=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(theme__in=Theme.values), name="known_theme")]

    def __str__(self) -> str:
        return f"profile of {self.user}"

    @classmethod
    def of(cls, user: User) -> "Profile":
        """The person's profile, made but not saved where there is none yet."""
        try:
            return user.profile
        except cls.DoesNotExist:
            return cls(user=user)

    @property
    def zone(self) -> str:
        """The time zone that pages are shown in; one that the system forgot since counts as none."""
        try:
            # Remembered by zoneinfo; to list all zones that there are opens hundreds of files.
            return ZoneInfo(self.time_zone).key if self.time_zone else settings.TIME_ZONE
        except (KeyError, ValueError, OSError):
            return settings.TIME_ZONE
