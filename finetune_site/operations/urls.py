from django.urls import path

from finetune_site.operations import views

urlpatterns = [
    path("health/live", views.health_live, name="health_live"),
    path("health/ready", views.health_ready, name="health_ready"),
    path("metrics", views.metrics, name="metrics"),
    path("system/", views.system, name="system"),
    path("system/body", views.system_body, name="system_body"),
]
