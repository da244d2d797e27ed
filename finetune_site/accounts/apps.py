from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "finetune_site.accounts"
