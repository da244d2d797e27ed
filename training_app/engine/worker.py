"""A worker of a training on a Ray cluster: it stands on a machine of the cluster, its process group is made already."""

import os
import socket
import threading
from pathlib import Path
from typing import Any

from finetune_site.lib.channel import Cancelled, Channel, InputError
from training_app.engine.cluster import Attempt


class Report(Channel):
    """A channel that has the attempt's folder in place of standard output and signals. Only the first worker talks."""

    def __init__(self, attempt: Attempt, *, is_first: bool) -> None:
        self._attempt = attempt
        self._is_muted = not is_first
        self._journal = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._stream = attempt.events.open("a", encoding="utf-8")

    @property
    def should_stop(self) -> bool:
        """Asked of the first worker alone: the others stop at the step at which it does."""
        return not self._is_muted and self._attempt.should_stop

    def emit(self, event: str, **fields: object) -> None:
        super().emit(event, **fields)
        os.fsync(self._stream.fileno())  # other machines see what is on the disk


def work(config: dict[str, Any]) -> None:
    """The function that Ray Train runs in every worker. What the first one did is its last event."""
    attempt = Attempt(Path(config["attempt"]))
    if not attempt.is_here:
        raise InputError(
            f"The machine {socket.gethostname()} of the Ray cluster does not see the folder {attempt.folder.parents[1]}"
            ". The site's data folder must lie on storage that all machines mount under the same path."
        )
    from training_app.engine.team import is_further_member
    from training_app.engine.train import train

    channel = Report(attempt, is_first=not is_further_member())
    channel.emit("joined")
    try:
        result = train(attempt.spec, channel)
    except Cancelled:
        channel.emit("cancelled")
    else:
        channel.emit("done", result=result)
