"""The ASGI application that the web server runs."""

import gc
import multiprocessing
import os

from django.core.asgi import get_asgi_application
from django.urls import get_resolver

from finetune_site.lib.process import end_with_parent

if multiprocessing.parent_process():  # one of several: none outlives the server and keeps its port
    end_with_parent()
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "finetune_site.settings")
application = get_asgi_application()
# What stays for the process's life is not looked through again: else one request in a few hundred waits for it.
get_resolver().url_patterns  # noqa: B018  loads the views now, not at the first person's request
gc.collect()
gc.freeze()
