"""All addresses of the site."""

from allauth.account.decorators import secure_admin_login
from django.contrib import admin
from django.urls import include, path

# The administration lets people in as every page does: with limits and the second factor.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("finetune_site.accounts.urls")),
    path("", include("finetune_site.projects.urls")),
    path("", include("finetune_site.jobs.urls")),
    path("", include("datasets_app.urls")),
    path("", include("training_app.urls")),
    path("", include("finetune_site.operations.urls")),
    path("", include("finetune_site.notifications.urls")),
    path("", include("finetune_site.api.urls")),
]
handler500 = "finetune_site.operations.views.server_error"
