"""The app of the people themselves: how they sign in, and what they prefer."""

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "finetune_site.accounts"
    label = "accounts"
