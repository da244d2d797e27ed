from django.urls import path

from finetune_site.jobs import views

urlpatterns = [
    path("jobs/", views.job_list, name="job_list"),
    path("jobs/table", views.job_list_table, name="job_list_table"),
    path("devices/", views.device_list, name="device_list"),
    path("devices/table", views.device_list_table, name="device_list_table"),
    path("jobs/<int:pk>/", views.job_detail, name="job"),
    path("jobs/<int:pk>/body", views.job_detail_body, name="job_body"),
    path("jobs/<int:pk>/progress", views.job_progress, name="job_progress"),
    path("jobs/<int:pk>/cancel", views.job_cancel, name="job_cancel"),
    path("jobs/<int:pk>/requeue", views.job_requeue, name="job_requeue"),
    path("jobs/<int:pk>/next", views.job_run_next, name="job_run_next"),
    path("projects/<int:pk>/live", views.live, name="live"),
]
