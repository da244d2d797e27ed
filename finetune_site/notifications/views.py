"""The pages of one's notices."""

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from finetune_site.notifications import services
from finetune_site.notifications.forms import WishesForm
from finetune_site.notifications.models import Notice, Wishes
from finetune_site.projects.access import SignedInRequest


@require_GET
def notice_list(request: SignedInRequest) -> HttpResponse:
    notices = Notice.objects.visible_to(request.user).select_related("project")
    page = Paginator(notices, 50).get_page(request.GET.get("page"))
    return render(request, "notifications/notice_list.html", {"page": page, "days": services.DAYS})


@require_GET
def notice(request: SignedInRequest, pk: int) -> HttpResponse:
    """Lead to what it speaks of, and count it as read."""
    found = get_object_or_404(Notice.objects.visible_to(request.user), pk=pk)
    services.read(user=request.user, pk=found.pk)
    return redirect(found.url)


@require_POST
def notices_read(request: SignedInRequest) -> HttpResponse:
    services.read(user=request.user)
    return redirect("notice_list")


@require_GET
def bell(request: SignedInRequest) -> HttpResponse:
    """The bell in the head of every page, as it is now."""
    return render(request, "notifications/bell.html")


@require_http_methods(["GET", "POST"])
def wishes(request: SignedInRequest) -> HttpResponse:
    form = WishesForm(request.POST or None, wishes=Wishes.of(request.user))
    if form.is_valid():
        services.save_wishes(user=request.user, **form.arguments)
        messages.success(request, "Saved.")
        return redirect("wishes")
    return render(request, "notifications/wishes.html", {"form": form})
