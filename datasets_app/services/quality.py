"""Findings: looked for in the background, counted, and held against what a project lets into a version."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import Q
from django.urls import reverse

from datasets_app.engine.quality import FINDINGS, NAMES
from datasets_app.models import Dataset, QualityRules, State
from datasets_app.models.examples import ExampleQuerySet, Support
from datasets_app.models.quality import REASONS
from datasets_app.services.errors import DatasetError
from finetune_site.jobs import services as jobs
from finetune_site.jobs.models import UNFINISHED, Job, JobState
from finetune_site.lib.files import write_whole
from finetune_site.projects.models import Project
from finetune_site.projects.services import audit

CHECK = "datasets.check"
ROWS_AT_ONCE = 2000


@dataclass(frozen=True)
class Figure:
    """How many examples have a finding: of all, and of those that are approved."""

    name: str
    about: str
    count: int
    approved: int
    is_blocking: bool


@transaction.atomic
def start_check(*, actor: User, dataset: Dataset) -> None:
    """Look at all examples, in the background; a look that waits already does it, one that has begun may not."""
    locked = Dataset.objects.select_for_update().get(pk=dataset.pk)
    if locked.check_job_id and Job.objects.filter(pk=locked.check_job_id, state=JobState.QUEUED).exists():
        return
    locked.check_job = jobs.enqueue(
        project=locked.project,
        owner=actor,
        kind=CHECK,
        label=f"{locked}: quality",
        url=reverse("quality", args=[locked.pk]),
    )
    locked.save(update_fields=["check_job"])


def write_examples(dataset: Dataset, path: Path) -> None:
    """All of a dataset as the engine reads it."""
    examples = dataset.examples.select_related("text").order_by("pk")
    rows = (
        {
            "id": example.pk,
            "text_id": example.text_id,
            "content": example.text.content,
            "group": f"{example.document_name}/{example.section_key or example.pk}",
        }
        for example in examples.iterator(chunk_size=ROWS_AT_ONCE)
        if example.text
    )
    write_whole(path, (f"{json.dumps(row, ensure_ascii=False)}\n".encode() for row in rows))


def blocks(lines: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Some at a time."""
    waiting = iter(lines)
    while block := list(islice(waiting, ROWS_AT_ONCE)):
        yield block


def keep(dataset: Dataset, chunk: list[dict[str, Any]]) -> None:
    """Write findings to their examples, unless a text is another one by now."""
    if chunk:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(
                "update datasets_app_example as example set findings = string_to_array(told.findings, '|')::varchar[], "
                "cluster = told.cluster, checked_text = told.text_id "
                "from unnest(%s::bigint[], %s::bigint[], %s::text[], %s::bigint[]) "
                "as told (id, text_id, findings, cluster) "
                "where example.id = told.id and example.text_id = told.text_id and example.dataset_id = %s and "
                "(example.checked_text is distinct from told.text_id or example.cluster <> told.cluster or "
                "example.findings <> string_to_array(told.findings, '|')::varchar[])",
                [
                    [line["id"] for line in chunk],
                    [line["text_id"] for line in chunk],
                    ["|".join(line["findings"]) for line in chunk],
                    [line["cluster"] for line in chunk],
                    dataset.pk,
                ],
            )


def count(dataset: Dataset) -> None:
    """Add up what was found: a page that did it at each view would read every example."""
    with connection.cursor() as cursor:
        cursor.execute(
            "select name, state, count(*) from datasets_app_example, unnest(findings) as name "
            "where dataset_id = %s group by name, state union all "
            "select support, state, count(*) from datasets_app_example where dataset_id = %s and support = any(%s) "
            "group by support, state",
            [dataset.pk, dataset.pk, [Support.UNVERIFIED.value, Support.STALE.value]],
        )
        counts, approved = Counter[str](), Counter[str]()
        for name, state, count in cursor.fetchall():
            counts[name] += count
            approved[name] += count * (state == State.APPROVED)
    found = {name: [counts[name], approved[name]] for name in REASONS}
    Dataset.objects.filter(pk=dataset.pk).update(found=found)


def figures(dataset: Dataset) -> list[Figure]:
    """Every reason with its counts as the last look left them, those that block first."""
    blocking = set(QualityRules.of(dataset.project).blocking)
    found = []
    for name, about in REASONS.items():
        total, approved = dataset.found.get(name, (0, 0))
        found.append(Figure(name, about, total, approved, name in blocking))
    return sorted(found, key=lambda figure: (not figure.is_blocking, -figure.count))


def unchecked(examples: ExampleQuerySet) -> ExampleQuerySet:
    """Those that nobody has looked at since their text is what it is: an edit forgets the look."""
    return examples.filter(checked_text=None)


def refusal(dataset: Dataset) -> str:
    """Why the approved examples are not sealed as they are; empty when the project's rules let them in."""
    rules = QualityRules.of(dataset.project)
    if not rules.blocking:
        return ""
    if dataset.check_job_id and Job.objects.filter(pk=dataset.check_job_id, state__in=UNFINISHED).exists():
        return "The examples are being looked at. Seal when that is done, within minutes."
    approved = dataset.examples.filter(state=State.APPROVED, document__withdrawn_at=None)
    if set(rules.blocking) & set(FINDINGS) and (count := unchecked(approved).count()):
        which = "example was" if count == 1 else "examples were"
        return f"{count} approved {which} not checked since the last change. Check the dataset, then seal."
    wrong = Q(findings__overlap=rules.blocking) | Q(support__in=rules.blocking)
    if not (count := approved.filter(wrong).count()):
        return ""
    names = ", ".join(f"“{REASONS[name]}”" for name in rules.blocking)
    return (
        f"{count} approved example{'s' if count > 1 else ''} may not be sealed by this project's rules ({names}). "
        "Look at them on the page Quality: mend or reject them, or change the rules."
    )


@transaction.atomic
def set_rules(
    *, actor: User, project: Project, blocking: list[str], max_tokens: int, finds_names: bool
) -> QualityRules:
    """What the project lets into a version."""
    if unknown := sorted(set(blocking) - set(REASONS)):
        raise DatasetError(f"There is no finding {', '.join(unknown)}. There are: {', '.join(REASONS)}.")
    rules, _ = QualityRules.objects.select_for_update().get_or_create(project=project)
    before = {"blocking": rules.blocking, "max tokens": rules.max_tokens, "names": rules.finds_names}
    finds_names = finds_names or NAMES in blocking  # what blocks has to be looked for
    looks_otherwise = (rules.max_tokens, rules.finds_names) != (max_tokens, finds_names)
    rules.blocking, rules.max_tokens, rules.finds_names = blocking, max_tokens, finds_names
    rules.save()
    after = {"blocking": blocking, "max tokens": max_tokens, "names": finds_names}
    audit(project, actor, "set what is let into a version of", project, before=before, after=after)
    for dataset in project.datasets.filter(examples__isnull=False).distinct() if looks_otherwise else ():
        start_check(actor=actor, dataset=dataset)
    return rules
