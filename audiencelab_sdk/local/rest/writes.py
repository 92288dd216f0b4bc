"""Render statements that insert, update or delete. Independent of HTTP."""

import typing
from collections.abc import Iterable, Sequence

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from audiencelab_sdk.local.rest.query import Field, JsonBody, Query, SelectItem
from audiencelab_sdk.local.rest.render import NOTHING, Output, Renderer, Statement, unpacked
from audiencelab_sdk.local.rest.schema import Catalog, Column, Table
from audiencelab_sdk.local.rest.terms import identifier, trusted

Returning = typing.Literal["minimal", "representation", "headers-only"]
Resolution = typing.Literal["merge-duplicates", "ignore-duplicates"]


class WriteRenderer(Renderer):
    """Renders one statement that writes.

    Args:
        catalog: The schema cache.
        query: The parsed query of the URL.
        output: The format of the response body.
        table: The table to write to.
        returning: What the response includes of the written rows; for `headers-only`, their keys.
    """

    def __init__(
        self,
        catalog: Catalog,
        query: Query,
        output: Output,
        table: Table,
        returning: Returning,
    ) -> None:
        super().__init__(catalog, query, output)
        self._table = table
        self._relation = Identifier(table.schema, table.name)
        self._returning = returning
        self._terms = self.terms(self._relation, table.columns)

    def insert(
        self,
        body: JsonBody,
        *,
        resolution: Resolution | None = None,
        use_defaults: bool = False,
        only_where: bool = False,
    ) -> Statement:
        """Insert the objects of a body.

        Args:
            body: The objects.
            resolution: What happens to a row whose key exists.
            use_defaults: Whether a missing key means the column's default instead of null.
            only_where: Whether to insert only rows that match the URL's filters, as PUT does.
        """
        columns = self._columns(body)
        target = self.query.on_conflict or self._table.primary_key
        merges = resolution == "merge-duplicates" and bool(target) and self._table.is_ordinary
        if body.is_empty:
            return self._nothing()
        rows: Composable
        if columns:
            given = self.terms(SQL("pgrst_body"), self._table.columns)
            rows = SQL("({}) select {} from {}{}").format(
                _identifiers(column.name for column in columns),
                SQL(", ").join(_of_body(column) for column in columns),
                self._unpacked(body, columns, use_defaults=use_defaults),
                given.where(self.query.where) if only_where else NOTHING,
            )
        else:
            rows = SQL("default values")
        source = SQL("insert into {} {}{} returning {}{}").format(
            self._relation,
            rows,
            _on_conflict(target, columns, resolution),
            self._returned(),
            # xmax is 0 in a new row, and the locking transaction in an updated one.
            SQL(", {}.xmax = 0 as pgrst_inserted").format(self._relation) if merges else NOTHING,
        )
        inserted = SQL("(select count(*) from pgrst_source where pgrst_inserted)")
        return self._written(source, inserted if merges else None)

    def update(self, body: JsonBody, *, use_defaults: bool = False) -> Statement:
        """Update the rows that match the URL's filters with the object of a body."""
        columns = self._columns(body)
        if not columns:
            return self._nothing()
        changes = SQL(", ").join(
            SQL("{} = {}").format(Identifier(column.name), _of_body(column)) for column in columns
        )
        source = SQL("update {} set {} from {}{} returning {}").format(
            self._relation,
            changes,
            self._unpacked(body, columns, use_defaults=use_defaults),
            self._terms.where(self.query.where),
            self._returned(),
        )
        return self._written(source)

    def delete(self) -> Statement:
        """Delete the rows that match the URL's filters."""
        source = SQL("delete from {}{} returning {}").format(
            self._relation, self._terms.where(self.query.where), self._returned()
        )
        return self._written(source)

    def _columns(self, body: JsonBody) -> list[Column]:
        names = body.keys if self.query.columns is None else self.query.columns
        return self._table.require_columns(names)

    def _unpacked(self, body: JsonBody, columns: list[Column], *, use_defaults: bool) -> Composed:
        payload: Composable = self.parameters.bind(body.text, "json")
        defaults = [column for column in columns if column.default is not None]
        if use_defaults and defaults:
            form = (
                SQL(
                    "(select json_agg(jsonb_build_object({}) || given)"
                    " from jsonb_array_elements({}::jsonb) as given)"
                )
                if body.is_array
                else SQL("(jsonb_build_object({}) || {}::jsonb)::json")
            )
            payload = form.format(SQL(", ").join(map(_default, defaults)), payload)
        return unpacked(payload, columns, is_array=body.is_array)

    @property
    def _selected(self) -> Sequence[SelectItem]:
        if self._returning == "minimal":
            return ()
        if self._returning == "headers-only":
            return _items(self._table.primary_key)
        return self.query.select

    def _returned(self) -> Composable:
        """Return the columns that the response needs. The role may lack access to others."""
        if not self._selected:
            return SQL("1")
        needed = [item.field.column for item in self._selected]
        needed += [term.field.column for term in self.query.order]
        if "*" in needed:
            needed = ["*"]
        return self._terms.select_list(_items(dict.fromkeys(needed)))

    def _written(self, source: Composable, inserted: Composable | None = None) -> Statement:
        if not self._selected:
            one_each = SQL("select 1 from pgrst_source")
            return self.statement(source, one_each, inserted=inserted, body=SQL("''"))
        selected = self._selected
        if inserted is not None:
            # The client must not see pgrst_inserted.
            everything = _items(self._table.columns)
            selected = [
                item
                for selected_item in selected
                for item in (everything if selected_item.field.column == "*" else [selected_item])
            ]
        relation = Identifier(self._table.name)
        terms = self.terms(relation, self._table.columns)
        rows = SQL("select {} from pgrst_source as {}{}").format(
            terms.select_list(selected), relation, terms.order_by(self.query.order)
        )
        return self.statement(source, rows, inserted=inserted)

    def _nothing(self) -> Statement:
        """Return a statement that returns no rows and does not use the table."""
        return self.statement(SQL("select 1 where false"), SQL("select * from pgrst_source"))


def _items(names: Iterable[str]) -> list[SelectItem]:
    return [SelectItem(Field(name)) for name in names]


def _identifiers(names: Iterable[str]) -> Composed:
    return SQL(", ").join(map(identifier, names))


def _of_body(column: Column) -> Composed:
    return SQL("pgrst_body.{}").format(Identifier(column.name))


def _default(column: Column) -> Composed:
    value = trusted(column.default or "null")
    return SQL("{}::text, {}").format(Literal(column.name), value)


def _on_conflict(
    target: Sequence[str], columns: Sequence[Column], resolution: Resolution | None
) -> Composable:
    if resolution is None or not target:
        return NOTHING
    if resolution == "ignore-duplicates" or not columns:
        return SQL(" on conflict ({}) do nothing").format(_identifiers(target))
    changes = SQL(", ").join(
        SQL("{0} = excluded.{0}").format(Identifier(column.name)) for column in columns
    )
    return SQL(" on conflict ({}) do update set {}").format(_identifiers(target), changes)
