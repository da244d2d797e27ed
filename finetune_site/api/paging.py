"""Lists in pages: `?page=` and `?size=`, in an order that does not change between two requests."""

from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

from django.db.models import QuerySet
from ninja import Query, Schema

Item = TypeVar("Item")


class Paging(Schema):
    page: Annotated[int, Query(1, ge=1, le=1_000_000, description="Counted from 1")] = 1
    size: Annotated[int, Query(50, ge=1, le=200, description="Items of a page")] = 50


class Page(Schema, Generic[Item]):
    items: list[Item]
    count: int
    page: int
    size: int


def paged(rows: "QuerySet[Any]", paging: Paging, show: Callable[[Any], Any]) -> dict[str, Any]:
    """One page of rows; beyond the last page it is empty."""
    start = (paging.page - 1) * paging.size
    items = [show(row) for row in rows[start : start + paging.size]]
    return {"items": items, "count": rows.count(), "page": paging.page, "size": paging.size}
