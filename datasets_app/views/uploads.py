"""A large file part by part, for the script of the documents page: it goes on after a lost connection."""

from collections.abc import Iterator
from functools import partial
from uuid import UUID

from django.http import HttpResponse, JsonResponse, UnreadablePostError
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST

from datasets_app.access import get_upload
from datasets_app.forms import UploadForm
from datasets_app.models import Upload
from datasets_app.services import uploads as services
from datasets_app.services.documents import DocumentError, PassingError
from finetune_site.lib.numbers import whole_number
from finetune_site.projects.access import SignedInRequest, get_project
from finetune_site.projects.models import Role


@require_POST
def upload_begin(request: SignedInRequest, project: int) -> HttpResponse:
    of = get_project(request.user, project, role=Role.TRAINER)
    form = UploadForm(request.POST)
    if not form.is_valid():
        return JsonResponse({"error": "Name the file and say how many bytes it has."}, status=422)
    try:
        return _told(services.begin_upload(actor=request.user, project=of, **form.cleaned_data))
    except DocumentError as error:
        return JsonResponse({"error": str(error)}, status=409)


@require_http_methods(["GET", "POST"])
def upload_part(request: SignedInRequest, key: UUID) -> HttpResponse:
    """GET: how much is here. POST: the part that begins at the byte of the header `Upload-Offset`; after the last one
    the answer is the page's lines for what became of the file."""
    arriving = get_upload(request.user, key)
    if request.method == "GET":
        return _told(arriving)
    start = whole_number(request.headers.get("Upload-Offset", ""), -1)
    if start < 0:
        return JsonResponse({"error": "Say at which byte of the file the part begins."}, status=422)
    try:
        if arriving.arrived < arriving.size:
            arriving = services.take_part(arriving=arriving, start=start, blocks=_blocks(request))
        if arriving.arrived < arriving.size:
            return _told(arriving)
        results = services.finish(actor=request.user, arriving=arriving)
        return render(request, "datasets/upload_result.html", {"results": results})
    except services.PartError as error:
        return _told(error.upload)
    except PassingError as error:  # the script asks again
        return JsonResponse({"error": str(error)}, status=503)
    except DocumentError as error:
        return JsonResponse({"error": str(error)}, status=409)
    except UnreadablePostError:  # the connection broke; whoever sent it asks how much is here
        return JsonResponse({"error": "The part did not come whole. Send it again."}, status=400)


def _told(arriving: Upload) -> JsonResponse:
    return JsonResponse({"url": reverse("upload_part", args=[arriving.pk]), "arrived": arriving.arrived})


def _blocks(request: SignedInRequest) -> Iterator[bytes]:
    return iter(partial(request.read, 2**20), b"")
