"""`python -m datasets_app.engine parse|page|generate|check spec.json`."""

import logging
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from datasets_app.engine import slim
from datasets_app.engine.spec import TASKS
from finetune_site.lib import channel


def main(name: str, path: str) -> int:
    """Run one task; returns the exit code of the contract in `channel`."""

    slim.keep_quiet()

    def task(link: channel.Channel) -> dict[str, Any]:
        spec: Any = channel.read_spec(TASKS[name], channel.load_json(path))
        result: dict[str, Any] = import_module(f"datasets_app.engine.{name}").run(spec, link)
        return result

    return channel.run(task, result_path=_result_path(path))


def _result_path(path: str) -> Path | None:
    try:
        folder = channel.load_json(path).get("out_dir")
    except channel.InputError:
        return None
    return Path(folder) / "result.json" if folder else None


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in TASKS:
        sys.exit(f"usage: python -m datasets_app.engine {'|'.join(TASKS)} spec.json")
    code = main(sys.argv[1], sys.argv[2])
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # all is written: to take down what the libraries built takes longer than many a file
