from django.urls import path

from finetune_site.notifications import views

urlpatterns = [
    path("notices/", views.notice_list, name="notice_list"),
    path("notices/read", views.notices_read, name="notices_read"),
    path("notices/bell", views.bell, name="bell"),
    path("notices/<int:pk>", views.notice, name="notice"),
    path("account/notices/", views.wishes, name="wishes"),
]
