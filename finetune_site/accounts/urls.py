"""Signing in and out, and one's own account: django-allauth's pages under `/account/`, and ours beside them."""

from django.urls import include, path

from finetune_site.accounts import views

urlpatterns = [
    path("login", views.OldLogin.as_view(pattern_name="account_login", query_string=True), name="login"),
    path("join/<str:token>", views.join, name="join"),
    path("account/", views.profile, name="profile"),
    path("account/theme", views.theme, name="theme"),
    path("account/new", views.sign_up, name="sign_up"),
    path("account/new/<str:token>", views.sign_up_link, name="sign_up_link"),
    # Before django-allauth's own of the same name.
    path("account/email/", views.Addresses.as_view(), name="account_email"),
    path("account/password/reset/", views.PasswordReset.as_view(), name="account_reset_password"),
    path("account/", include("allauth.account.urls")),
    path("account/second-factor/", include("allauth.mfa.urls")),
    path("account/sessions/", include("allauth.usersessions.urls")),
    path("account/connections/", include("allauth.socialaccount.urls")),
    path("account/", include("allauth.socialaccount.providers.openid_connect.urls")),
]
