"""PostgREST's rules beyond the recorded requests: reading, writing, functions, headers."""

from collections.abc import Callable
from typing import Any

import pytest

SQL = """
create table api.doc (
  id int generated always as identity primary key,
  body json,
  label text default 'labelled',
  n int default 5,
  code varchar(4),
  "odd ""name""; --" text
);
grant all on api.doc to service_role;
insert into api.doc (body, label) values ('{"a": [{"b": 1}, {"b": 2}]}', 'first'), (null, null);

create table api.stock (warehouse int, item text, amount int, primary key (warehouse, item));
grant all on api.stock to service_role;

create view api.stock_view as select * from api.stock;
grant all on api.stock_view to service_role;
create table api.split (id int primary key, label text) partition by hash (id);
create table api.split_0 partition of api.split for values with (modulus 1, remainder 0);
grant all on api.split to service_role;

create view api.names as select id, name, qty from api.item;
grant select on api.names to service_role;

create function api.full_label(doc api.doc) returns text language sql stable
  return 'doc ' || doc.id;
create function api.whole(jsonb) returns jsonb language sql immutable return $1;
create function api.total(variadic p_n int[]) returns bigint language sql immutable
  return (select sum(n) from unnest(p_n) as n);
create function api.numbers(p_to int default 5) returns setof int language sql immutable
  begin atomic select generate_series(1, p_to); end;
create function api.padded(p_c char(5), p_v varchar) returns text language sql immutable
  return p_c || '|' || p_v;
create function api.over(a int) returns text language sql immutable return 'int';
create function api.over(b text) returns text language sql immutable return 'text';
create function api.either(a int) returns text language sql immutable return 'int';
create function api.either(a text) returns text language sql immutable return 'text';
create function api.outputs(a int, out b int, out c text) language sql immutable
  return row (a + 1, 'x'::text);
create function api.writes() returns int language sql volatile
  begin atomic insert into api.doc (label) values ('written'); select 1; end;
create function api.own_answer(p_headers text, p_status text) returns int language plpgsql as $$
begin
  perform set_config('response.headers', p_headers, true);
  perform set_config('response.status', p_status, true);
  return 1;
end $$;
create function api.own_error(p_message text, p_detail text) returns int language plpgsql as $$
begin
  raise sqlstate 'PGRST' using message = p_message, detail = p_detail;
end $$;
create function api.settings() returns json language sql stable return json_build_object(
  'role', current_role,
  'method', current_setting('request.method'),
  'path', current_setting('request.path'),
  'header', current_setting('request.headers')::json ->> 'x-mark',
  'cookie', current_setting('request.cookies')::json ->> 'k',
  'claims', current_setting('request.jwt.claims')::json,
  'search_path', current_setting('search_path')
);
"""


@pytest.fixture(scope="module")
def api(serve: Callable[[str], Any]) -> Any:
    return serve(SQL)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("or=(tags.cs.{even,n2},name.in.(\"item 03\",\"no, (no)\"))", [2, 3]),
        ("and=(qty.gte.3,not.or(qty.gt.5,qty.eq.4))", [3, 5]),
        ("not.and=(qty.gt.2,qty.lt.19)", [1, 2, 19, 20]),
        ("or=(note.eq.\"note, \\\"quoted\\\" (5)\",qty.eq.1)", [1, 5]),
        ("or=(qty.eq.1,meta->>i.eq.2,deleted.not.is.false)", [1, 2, 6, 12, 18]),
        ("qty=eq(any).{1,2}", [1, 2]),
        ("name=like(any).{*01,*02}", [1, 2]),
        ("qty=gt(all).{17,18}", [19, 20]),
        ("name=fts(english).item&qty=eq.4", [4]),
        ("name=wfts.07", [7]),
        ("name=match.^item.*[12]9$", [19]),
        ("name=imatch.^ITEM 0[12]", [1, 2]),
        ("price=isdistinct.1.25&qty=lt.4", [2, 3]),
        ("price=not.isdistinct.1.25", [1]),
        ("tags=cd.{even,n2,n4}", [2, 4]),
        ("meta=cd.{\"i\":3,\"nested\":{\"flag\":false},\"more\":1}", [3]),
        ("meta->nested->flag=eq.true&qty=lt.4", [2]),
        ("tags->0=eq.\"even\"&qty=lt.4", [2]),
        ("id=in.()", []),
        ("\"name\"=eq.item 02", [2]),
        ("note=is.not_null&qty=lt.11", [5, 10]),
        ("qty=in.(1,2)&qty=not.in.(2)", [1]),
    ],
)  # fmt: skip
def test_filters(api: Any, query: str, expected: list[int]) -> None:
    rows = api.get(f"/item?select=qty&order=qty&{query}")
    assert [row["qty"] for row in rows] == expected


@pytest.mark.parametrize(
    "query",
    [
        "qty=in.1",
        "qty=in.(1",
        "qty=is.maybe",
        "qty=eq(some).1",
        "qty=neq(any).{1}",
        "or=(qty.eq.1",
        "or=()",
        "or=qty.eq.1",
        "or=(qty.eq.1)x",
        "or=(" * 1 + "and(" * 300,
        "select=name,,qty",
        "select=name::",
        "select=meta->",
        "order=",
        "order=name.upwards",
        "na/me=eq.1",
    ],
)
def test_invalid_syntax(api: Any, query: str) -> None:
    response = api.request("GET", f"/item?{query}")
    assert (response.status_code, response.json()["code"]) == (400, "PGRST100")


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("select=name,part(*)", 400, "PGRST200"),
        ("select=...part(id)", 400, "PGRST200"),
        ("select=part!inner(id)", 400, "PGRST200"),
        ("part.id=eq.1", 400, "PGRST108"),
        ("select=qty.sum()", 400, "PGRST123"),
        ("select=count()", 400, "PGRST123"),
        ("select=qty::nonsense", 400, "42704"),
        ("select=qty::int);drop table api.item;--", 400, "PGRST100"),
        ("limit=-1", 416, "PGRST103"),
        ("name=eq.%00", 400, "22021"),
        ("\"na%00me\"=eq.1", 400, "22021"),
        ("name=fts(klingon).x", 400, "42704"),
        ("qty=like.*1*", 404, "42883"),
    ],
)  # fmt: skip
def test_invalid_requests(api: Any, query: str, status: int, code: str) -> None:
    response = api.request("GET", f"/item?{query}")
    assert (response.status_code, response.json()["code"]) == (status, code)


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("qty::text,name", {"qty": "1", "name": "item 01"}),
        ("mark:qty::int8", {"mark": 1}),
        ("x:tags->0,created_at::date", {"x": "odd", "created_at": "2025-01-01"}),
        ("meta->nested->>flag", {"flag": "false"}),
        ("two words:qty", {"two words": 1}),
        ("price::decimal", {"price": 1.25}),
        ("tags::jsonb", {"tags": ["odd"]}),
    ],
)
def test_projection(api: Any, select: str, expected: dict[str, Any]) -> None:
    if "::jsonb" in select:
        response = api.request("GET", f"/item?select={select}&qty=eq.1")
        assert response.json()["code"] == "42846"  # PostgreSQL casts no array to jsonb
        return
    assert api.get(f"/item?select={select}&qty=eq.1") == [expected]


def test_json_paths_and_computed_columns(api: Any) -> None:
    rows = api.get("/doc?select=body->a->0->b,last:body->a->-1->>b,full_label&order=body->a->0->>b")
    assert rows[0] == {"b": 1, "last": "2", "full_label": "doc 1"}


def test_sql_in_a_name_is_quoted(api: Any) -> None:
    name = '"odd \\"name\\"; --"'
    assert api.get(f"/doc?select={name}&id=eq.1&{name}=is.null") == [{'odd "name"; --': None}]
    response = api.request("GET", '/item?select="name\\"; drop table api.item; --"')
    assert response.json()["code"] == "42703"
    assert len(api.get("/item?select=id")) == 20


def test_views_can_be_read(api: Any) -> None:
    assert api.get("/names?select=name&qty=lte.2&order=qty") == [
        {"name": "item 01"},
        {"name": "item 02"},
    ]


def test_nulls_last_and_offset(api: Any) -> None:
    rows = api.get("/item?select=qty&order=price.desc.nullslast,qty&limit=2&offset=14")
    assert [row["qty"] for row in rows] == [1, 4]


@pytest.mark.parametrize(
    ("range_header", "status", "content_range"),
    [
        ("0-4", 206, "0-4/20"),
        ("18-", 206, "18-19/20"),
        ("items=3-3", 206, "3-3/20"),
        ("0-99", 200, "0-19/20"),
        ("5-2", 416, None),
        ("nonsense", 200, "0-19/20"),
    ],
)
def test_range(api: Any, range_header: str, status: int, content_range: str | None) -> None:
    headers = {"Range": range_header, "Prefer": "count=exact"}
    response = api.request("GET", "/item?select=name", headers=headers)
    assert response.status_code == status
    assert response.headers.get("content-range") == content_range


def test_range_and_limit_together(api: Any) -> None:
    response = api.request("GET", "/item?select=qty&limit=3&offset=4", headers={"Range": "5-50"})
    assert response.headers["content-range"] == "5-6/*"


def test_csv(api: Any) -> None:
    response = api.request(
        "GET",
        "/item?select=name,price,note&qty=in.(4,5)&order=qty",
        headers={"Accept": "text/csv"},
    )
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.text == 'name,price,note\n"item 04",,\n"item 05",6.25,"note, ""quoted"" (5)"'


def test_accept(api: Any) -> None:
    path = "/item?select=name,note&qty=eq.1"
    stripped = {"Accept": "application/vnd.pgrst.object+json;nulls=stripped"}
    assert api.request("GET", path, headers=stripped).json() == {"name": "item 01"}
    choice = {"Accept": "text/csv;q=0.5, application/json;q=0.9, image/png"}
    assert api.request("GET", path, headers=choice).json() == [{"name": "item 01", "note": None}]
    nothing = api.request("GET", path, headers={"Accept": "application/xml"})
    assert (nothing.status_code, nothing.json()["code"]) == (406, "PGRST107")


def test_insert_defaults_and_missing_keys(api: Any) -> None:
    path = "/doc?select=label,n&columns=label,n"
    rows = [{"label": "a"}, {"n": 9, "unknown": True}]
    response = api.request(
        "POST", path, json=rows, headers={"Prefer": "return=representation, missing=default"}
    )
    assert response.status_code == 201, response.text
    assert response.json() == [{"label": "a", "n": 5}, {"label": "labelled", "n": 9}]
    assert response.headers["preference-applied"] == "missing=default, return=representation"
    response = api.request("POST", path, json=rows, headers={"Prefer": "return=representation"})
    assert response.json() == [{"label": "a", "n": None}, {"label": None, "n": 9}]


def test_insert_nothing_and_defaults_only(api: Any) -> None:
    prefer = {"Prefer": "return=representation"}
    assert api.request("POST", "/doc", json=[], headers=prefer).json() == []
    response = api.request("POST", "/doc?select=label,n", json={}, headers=prefer)
    assert response.json() == [{"label": "labelled", "n": 5}]


def test_insert_headers_only(api: Any) -> None:
    prefer = {"Prefer": "return=headers-only"}
    response = api.request("POST", "/stock", json={"warehouse": 1, "item": "a&b"}, headers=prefer)
    assert response.status_code == 201
    assert response.headers["location"] == "/stock?warehouse=eq.1&item=eq.a%26b"
    assert response.content == b""


def test_a_text_too_long_for_its_column_is_an_error(api: Any) -> None:
    response = api.request("POST", "/doc", json={"code": "12345"})
    assert (response.status_code, response.json()["code"]) == (400, "22001")


def test_upsert(api: Any) -> None:
    def upsert(rows: Any, resolution: str) -> Any:
        prefer = f"resolution={resolution}-duplicates, return=representation"
        return api.request("POST", "/stock?order=item", json=rows, headers={"Prefer": prefer})

    new = {"warehouse": 7, "item": "a", "amount": 1}
    other = {"warehouse": 7, "item": "b", "amount": 1}
    assert upsert(new, "merge").status_code == 201
    merged = upsert({**new, "amount": 2}, "merge")
    assert (merged.status_code, merged.json()) == (200, [{**new, "amount": 2}])
    both = upsert([{**new, "amount": 3}, other], "merge")
    assert (both.status_code, both.json()) == (201, [{**new, "amount": 3}, other])
    ignored = upsert([{**new, "amount": 4}], "ignore")
    assert (ignored.status_code, ignored.json()) == (201, [])
    assert api.get("/stock?warehouse=eq.7&item=eq.a&select=amount") == [{"amount": 3}]


def test_upsert_on_another_key(api: Any) -> None:
    response = api.request(
        "POST",
        "/item?on_conflict=owner,name&select=qty",
        json={"owner": "10000000-0000-4000-8000-000000000001", "name": "item 01", "qty": 1},
        headers={"Prefer": "resolution=merge-duplicates, return=representation"},
    )
    assert (response.status_code, response.json()) == (200, [{"qty": 1}])


@pytest.mark.parametrize(
    ("path", "row"),
    [
        ("/stock_view?on_conflict=warehouse,item", {"warehouse": 8, "item": "v", "amount": 1}),
        ("/split", {"id": 1, "label": "x"}),
    ],
)
def test_upsert_into_relations_without_system_columns(api: Any, path: str, row: Any) -> None:
    prefer = {"Prefer": "resolution=merge-duplicates, return=representation"}
    for _ in range(2):
        response = api.request("POST", path, json=row, headers=prefer)
        assert (response.status_code, response.json()) == (201, [row])


def test_an_insert_ignores_filters(api: Any) -> None:
    response = api.request("POST", "/doc?label=eq.other", json={"label": "inserted anyway"})
    assert response.status_code == 201, response.text
    assert len(api.get("/doc?label=eq.inserted anyway")) == 1


def test_put(api: Any) -> None:
    row = {"warehouse": 9, "item": "put", "amount": 1}
    path = "/stock?warehouse=eq.9&item=eq.put"
    assert api.request("PUT", path, json=row).status_code == 201
    response = api.request(
        "PUT", path, json={**row, "amount": 2}, headers={"Prefer": "return=representation"}
    )
    assert (response.status_code, response.json()) == (200, [{**row, "amount": 2}])
    other = api.request("PUT", path, json={**row, "item": "other"})
    assert (other.status_code, other.json()["code"]) == (400, "PGRST115")
    partial = api.request("PUT", "/stock?item=eq.put", json=row)
    assert (partial.status_code, partial.json()["code"]) == (405, "PGRST105")
    assert len(api.get("/stock?warehouse=eq.9")) == 1


def test_update_with_an_empty_object_changes_nothing(api: Any) -> None:
    response = api.request("PATCH", "/doc?id=eq.1", json={})
    assert (response.status_code, response.headers["content-range"]) == (204, "*/*")


def test_counts_of_writes(api: Any) -> None:
    prefer = {"Prefer": "count=exact"}
    response = api.request("PATCH", "/doc?id=in.(1,2)", json={"n": 6}, headers=prefer)
    assert response.headers["content-range"] == "0-1/2"
    response = api.request("DELETE", "/doc?id=eq.2", headers=prefer)
    assert response.headers["content-range"] == "*/1"


def test_max_affected_rolls_back_the_write(api: Any) -> None:
    before = len(api.get("/item"))
    response = api.request(
        "DELETE", "/item?qty=gt.2", headers={"Prefer": "handling=strict, max-affected=1"}
    )
    assert (response.status_code, response.json()["code"]) == (400, "PGRST124")
    assert len(api.get("/item")) == before


def test_several_rows_for_a_single_object_roll_back_the_write(api: Any) -> None:
    response = api.request(
        "PATCH",
        "/item?qty=gt.2&select=name",
        json={"kind": "c"},
        headers={
            "Prefer": "return=representation",
            "Accept": "application/vnd.pgrst.object+json",
        },
    )
    assert response.json()["code"] == "PGRST116"
    assert api.get("/item?kind=neq.c")


def test_unknown_preferences(api: Any) -> None:
    path = "/item?select=name&limit=1"
    assert api.request("GET", path, headers={"Prefer": "wish=granted"}).status_code == 200
    strict = api.request("GET", path, headers={"Prefer": "handling=strict, wish=granted"})
    assert (strict.status_code, strict.json()["code"]) == (400, "PGRST122")


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/rpc/whole", {"a": 1}, {"a": 1}),
        ("/rpc/whole", [{"a": 1}, {"a": "two"}], [{"a": 1}, {"a": "two"}]),
        ("/rpc/total", {"p_n": [1, 2, 3]}, 6),
        ("/rpc/numbers", {}, [1, 2, 3, 4, 5]),
        ("/rpc/numbers?limit=2&offset=1", {"p_to": 9}, [2, 3]),
        ("/rpc/padded", {"p_c": "abc", "p_v": "long text"}, "abc|long text"),
        ("/rpc/over", {"a": 1}, "int"),
        ("/rpc/over", {"b": 1}, "text"),
        ("/rpc/outputs", {"a": 1}, {"b": 2, "c": "x"}),
        ("/rpc/outputs?select=total:b", {"a": 1}, {"total": 2}),
        ("/rpc/rows_of?or=(n.eq.1,label.like.*3)&select=n", {"p_n": 5}, [{"n": 1}, {"n": 3}]),
    ],
)
def test_functions(api: Any, path: str, body: Any, expected: Any) -> None:
    response = api.request("POST", path, json=body)
    assert response.json() == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/rpc/add?a=4", 14),
        ("/rpc/total?p_n=1&p_n=2", 3),
        ("/rpc/total?p_n=7", 7),
        ("/rpc/add?a=1&a=2", 12),
        ("/rpc/tags_echo?p_tags={a,\"b c\"}", ["a", "b c"]),
        ("/rpc/json_echo?p_doc={\"a\":[1]}", {"a": [1]}),
        ("/rpc/rows_of?p_n=5&n=gt.3&order=n.desc&select=n", [{"n": 5}, {"n": 4}]),
        ("/rpc/null_scalar", None),
    ],
)  # fmt: skip
def test_functions_by_get(api: Any, path: str, expected: Any) -> None:
    assert api.get(path) == expected


def test_a_get_changes_nothing(api: Any) -> None:
    response = api.request("GET", "/rpc/writes")
    assert (response.status_code, response.json()["code"]) == (405, "25006")
    assert api.request("POST", "/rpc/writes").json() == 1


def test_an_ambiguous_overload(api: Any) -> None:
    response = api.request("POST", "/rpc/either", json={"a": 1})
    assert (response.status_code, response.json()["code"]) == (300, "PGRST203")


def test_rows_of_a_set_returning_function_are_counted(api: Any) -> None:
    response = api.request("GET", "/rpc/numbers?limit=2", headers={"Prefer": "count=exact"})
    assert response.status_code == 206
    assert response.headers["content-range"] == "0-1/5"


def test_a_function_sets_the_status_and_headers(api: Any) -> None:
    response = api.request(
        "POST", "/rpc/own_answer", json={"p_headers": '[{"X-Mark": "é"}]', "p_status": "418"}
    )
    assert (response.status_code, response.headers["x-mark"]) == (418, "é")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ("nonsense", "200", "PGRST111"),
        ("[1]", "200", "PGRST111"),
        ('[{"X": "a\\r\\nSet-Cookie: b"}]', "200", "PGRST111"),
        ('[{"X Y": "a"}]', "200", "PGRST111"),
        ('[{"X": "\u20ac"}]', "200", "PGRST111"),
        ("[]", "99", "PGRST112"),
        ("[]", "many", "PGRST112"),
    ],
)
def test_invalid_status_and_headers_of_a_function(
    api: Any, headers: str, status: str, code: str
) -> None:
    body = {"p_headers": headers, "p_status": status}
    response = api.request("POST", "/rpc/own_answer", json=body)
    assert (response.status_code, response.json()["code"]) == (500, code)


def test_a_function_raises_an_error_with_its_own_status(api: Any) -> None:
    message = '{"code": "X1", "message": "Pay first", "details": {"a": 1}, "hint": null}'
    detail = '{"status": 402, "headers": {"X-Mark": "1"}}'
    response = api.request(
        "POST", "/rpc/own_error", json={"p_message": message, "p_detail": detail}
    )
    assert (response.status_code, response.headers["x-mark"]) == (402, "1")
    assert response.json()["details"] == {"a": 1}
    broken = api.request("POST", "/rpc/own_error", json={"p_message": "no", "p_detail": "no"})
    assert (broken.status_code, broken.json()["code"]) == (500, "PGRST121")


def test_settings_of_the_request_in_sql(api: Any) -> None:
    seen = api.get("/rpc/settings", headers={"X-Mark": "m", "Cookie": "k=v"})
    assert seen == {
        "role": "service_role",
        "method": "GET",
        "path": "/rpc/settings",
        "header": "m",
        "cookie": "v",
        "claims": {"role": "service_role"},
        "search_path": '"api", "public", "extensions"',
    }
    assert api.get("/rpc/settings", role=None)["claims"] == {"role": "anon"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/", 405, "PGRST117"),
        ("GET", "/a/b", 404, "PGRST125"),
        ("GET", "/rpc/a/b", 404, "PGRST125"),
        ("PATCH", "/rpc/add", 405, "PGRST101"),
        ("TRACE", "/item", 405, "PGRST117"),
        ("OPTIONS", "/no_such_table", 404, "PGRST205"),
    ],
)
def test_paths_and_methods(api: Any, method: str, path: str, status: int, code: str) -> None:
    response = api.request(method, path)
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_options(api: Any) -> None:
    response = api.request("OPTIONS", "/item")
    assert response.headers["allow"] == "OPTIONS,GET,HEAD,POST,PUT,PATCH,DELETE"
    assert api.request("OPTIONS", "/rpc/add").headers["allow"] == "OPTIONS,GET,HEAD,POST"


def test_cors_allows_every_origin(api: Any) -> None:
    response = api.request(
        "OPTIONS",
        "/item",
        role=None,
        headers={
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "PATCH",
            "Access-Control-Request-Headers": "authorization, prefer",
        },
    )
    assert response.status_code == 200
    assert "PATCH" in response.headers["access-control-allow-methods"]


def test_other_schemas_are_not_exposed(api: Any) -> None:
    response = api.request("GET", "/pg_class", headers={"Accept-Profile": "pg_catalog"})
    assert (response.status_code, response.json()["code"]) == (406, "PGRST106")


def post(api: Any, path: str, content_type: str, content: str) -> Any:
    headers = {"Content-Type": content_type, "Prefer": "return=representation"}
    return api.request("POST", path, content=content.encode(), headers=headers)


def test_a_csv_body(api: Any) -> None:
    text = 'id,label\r\n901,"one, ""quoted"""\r\n902,NULL\r\n'
    response = post(api, "/part", "text/csv; charset=utf-8", text)
    assert response.status_code == 201
    assert [(row["id"], row["label"]) for row in response.json()] == [
        (901, 'one, "quoted"'),
        (902, None),
    ]
    assert post(api, "/part", "text/csv", "id,label\n").json() == []


def test_a_form_body(api: Any) -> None:
    form = "application/x-www-form-urlencoded"
    assert post(api, "/rpc/add", form, "a=2&b=3").json() == 5
    assert post(api, "/part", form, "id=903&label=a%26b+%C3%A9").json()[0]["label"] == "a&b é"


@pytest.mark.parametrize(
    ("content_type", "content", "message"),
    [
        ("text/csv", "", "Empty or invalid CSV"),
        ("text/csv", 'id\n"1', "Empty or invalid CSV"),
        ("text/csv", "id,label\n1\n", "All lines must have same number of fields"),
        ("application/x-www-form-urlencoded", "label=%ff", "Empty or invalid form"),
        ("image/png", "id\n1", "Content-Type not acceptable: image/png"),
    ],
)
def test_invalid_bodies(api: Any, content_type: str, content: str, message: str) -> None:
    response = post(api, "/part", content_type, content)
    assert (response.status_code, response.json()["code"]) == (400, "PGRST102")
    assert response.json()["message"] == message
