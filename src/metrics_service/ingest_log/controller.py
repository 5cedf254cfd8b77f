"""`/api/v1/ingest-log`."""

from __future__ import annotations

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency

from metrics_service.db.listing import position_of
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.listing import answer_page
from metrics_service.http.query import parse_query, query_operation
from metrics_service.ingest.diary import WRITTEN_EVERY_S
from metrics_service.ingest_log.repository import count_lines, fetch_lines, line_view
from metrics_service.ingest_log.schemas import IngestLogMeta, IngestLogPage, IngestLogQuery

ROUTE = "/api/v1/ingest-log"


class IngestLogController(Controller):
    path = ROUTE
    tags = ["ingest log"]
    opt = requires("admin")

    @get(operation_class=query_operation(IngestLogQuery))
    async def list_lines(
        self, request: AnyRequest, caller: NamedDependency[Caller]
    ) -> IngestLogPage:
        """List who sent what and what became of it, newest first: why nothing arrives.

        One line for each key, signal, encoding and client, with counts, the last times and the reasons
        for what was refused. What other processes took in is at most `meta.written_every_s` old;
        refusals are written within a second.
        """
        query = parse_query(request, IngestLogQuery)
        # Before a connection is taken, of which this takes one too.
        await caller.database.diary.flush(caller.tenant_id)
        async with caller.reading() as connection:
            page = await answer_page(
                caller,
                ROUTE,
                query,
                fetch=lambda after, limit, offset: fetch_lines(
                    connection, query, after=after, limit=limit, offset=offset
                ),
                count=lambda: count_lines(connection, query),
                position=position_of(query.sort),
                view=line_view,
            )
        meta = IngestLogMeta(**msgspec.structs.asdict(page.meta), written_every_s=WRITTEN_EVERY_S)
        return IngestLogPage(page.data, meta)
