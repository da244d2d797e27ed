from django.urls import path, re_path

from finetune_site.projects import views

urlpatterns = [
    path("projects/new", views.project_create, name="project_create"),
    path("projects/<int:pk>/edit", views.project_edit, name="project_edit"),
    path("projects/<int:pk>/delete", views.project_delete, name="project_delete"),
    path("projects/<int:pk>/members/", views.member_list, name="member_list"),
    path("projects/<int:pk>/members/add", views.member_add, name="member_add"),
    path("projects/<int:pk>/members/invite", views.member_invite, name="member_invite"),
    path("projects/<int:pk>/members/<int:member>/role", views.member_role, name="member_role"),
    path("projects/<int:pk>/members/<int:member>/remove", views.member_remove, name="member_remove"),
    path(
        "projects/<int:pk>/invitations/<int:invitation>/take-back",
        views.invitation_take_back,
        name="invitation_take_back",
    ),
    path("projects/<int:pk>/trail/", views.audit_list, name="audit_list"),
    re_path(r"^projects/(?P<pk>\d+)/trail\.(?P<format>csv|jsonl)$", views.audit_export, name="audit_export"),
]
