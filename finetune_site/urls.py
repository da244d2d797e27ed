"""All addresses of the site."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("finetune_site.projects.urls")),
    path("", include("finetune_site.jobs.urls")),
    path("", include("datasets_app.urls")),
    path("", include("training_app.urls")),
    path("", include("finetune_site.operations.urls")),
    path("", include("finetune_site.api.urls")),
]
handler500 = "finetune_site.operations.views.server_error"
