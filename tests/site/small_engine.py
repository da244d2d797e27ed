"""An engine of a few lines that does on request what engines do: work, refuse, break, wait, eat memory, spin."""

import atexit
import os
import sys
import time
from pathlib import Path
from typing import Any

from finetune_site.lib import channel


def work(link: channel.Channel) -> dict[str, Any]:
    link.emit("started")
    print("a library prints")  # noqa: T201
    link.emit("step", step=1)
    return {"answer": 42}


def environment(link: channel.Channel) -> dict[str, Any]:
    link.emit("environment", names=sorted(os.environ))
    return {}


def crash_late(link: channel.Channel) -> dict[str, Any]:
    atexit.register(os.abort)
    return {"answer": 42}


def refuse(link: channel.Channel) -> dict[str, Any]:
    raise channel.InputError("The rows are too few. Approve more.")


def break_(link: channel.Channel) -> dict[str, Any]:
    return {"answer": 1 / 0}


def wait(link: channel.Channel) -> dict[str, Any]:
    link.emit("started")
    while not link.should_stop:
        time.sleep(0.02)
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text("saved")
    link.emit("checkpoint", step=1)
    link.check()
    return {}


def eat(link: channel.Channel) -> dict[str, Any]:
    return {"size": len(bytearray(2**31))}


def spin(link: channel.Channel) -> dict[str, Any]:
    while True:
        pass


if __name__ == "__main__":
    name = sys.argv[1]
    result = Path(sys.argv[2]) if name in {"work", "break", "crash_late"} else None
    task = {
        "work": work,
        "environment": environment,
        "crash_late": crash_late,
        "refuse": refuse,
        "break": break_,
        "wait": wait,
        "eat": eat,
        "spin": spin,
    }[name]
    sys.exit(channel.run(task, result_path=result))
