"""How many examples of each state a dataset has, kept by Postgres itself as examples come, go and are judged.

A page that counted a million rows at each view would take a second. Triggers (migration `0012_tally_triggers`) write
each statement's change as a row of its own, so that no two writers wait for one another; `services.settle_tally` adds
the rows up now and then. What counts is always the sum, which is exact in every transaction.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from django.db import models
from django.db.models import Sum

from datasets_app.models.datasets import Dataset
from datasets_app.models.examples import State


@dataclass
class Counts:
    """The examples of one dataset by state."""

    draft: int = 0
    approved: int = 0
    rejected: int = 0

    @property
    def total(self) -> int:
        return self.draft + self.approved + self.rejected


class TallyQuerySet(models.QuerySet["Tally"]):
    def counts(self, datasets: Iterable[int]) -> dict[int, Counts]:
        """The counts of each of these datasets, given by their keys, in one query."""
        found = {key: Counts() for key in datasets}
        sums = self.filter(dataset__in=list(found)).order_by().values_list("dataset", "state")
        for dataset, state, number in sums.annotate(Sum("change")):
            setattr(found[dataset], state, number)
        return found

    def counts_of(self, dataset: Dataset) -> Counts:
        return self.counts([dataset.pk])[dataset.pk]


class Tally(models.Model):
    """So many examples more, or less, of a state."""

    # Without a foreign key in the database: the rows that a dataset's own deletion brings about outlive it for minutes.
    dataset = models.ForeignKey(Dataset, models.DO_NOTHING, related_name="+", db_constraint=False)
    state = models.CharField(max_length=10, choices=State.choices)
    change = models.BigIntegerField()

    objects = TallyQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "tallies"

    def __str__(self) -> str:
        return f"{self.change:+} {self.state} in dataset {self.dataset_id}"
