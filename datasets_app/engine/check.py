"""Task `check`: what may be wrong with each example of a dataset."""

import json
from pathlib import Path
from typing import Any

from datasets_app.engine import quality
from datasets_app.engine.spec import CheckSpec
from finetune_site.lib.channel import Channel, read_journal

TOLD_EACH = 500


def run(spec: CheckSpec, link: Channel) -> dict[str, Any]:
    """Write `findings.jsonl`, a line for each example of `examples_path`; return how many have each finding."""
    found = list(quality.look(read_journal(Path(spec.examples_path))))
    link.emit("started", total=len(found))

    def tell(done: int) -> None:
        if done % TOLD_EACH == 0 or done == len(found):
            link.check()
            link.emit("progress", done=done, total=len(found))

    counts = dict.fromkeys(quality.FINDINGS, 0)
    with (Path(spec.out_dir) / "findings.jsonl").open("w", encoding="utf-8") as stream:
        told = quality.examine(found, max_tokens=spec.max_tokens, finds_names=spec.finds_names, tell=tell)
        for line in told:
            stream.write(json.dumps(line) + "\n")
            for name in line["findings"]:
                counts[name] += 1
    return {"examples": len(found), "counts": counts}
