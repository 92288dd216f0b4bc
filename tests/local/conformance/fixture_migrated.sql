-- What the requests of recorded_migrated.json need, on top of a database that LocalStack migrated (platform, migrations, seed).
-- Run it as the superuser (supabase_admin); it can be run again. It makes schema gate, tables and functions named
-- public.gate_*, and rows in public.segments and api_keys_private.api_keys. gate.reset() puts all rows back.
set client_min_messages = warning;
drop schema if exists gate cascade;
create schema gate;
grant usage on schema gate to anon, authenticated, service_role, api_key;
create schema if not exists gate_closed;          -- no role but the superuser may use it
create or replace function gate_closed.pre_request() returns void language plpgsql as $$ begin end $$;

create table gate.keys (secret text primary key, id uuid not null);
create table gate.log (at timestamptz default now(), what text);
create sequence gate.attempts;
grant usage, select on sequence gate.attempts to anon, authenticated, api_key, service_role;
grant insert, select on gate.log to anon, authenticated, api_key;   -- so that only the read-only transaction refuses

-- api_key ids: ...c1 reads all segments of account A; ...c2 has no scope.
create or replace function gate.find_key(p_key text) returns uuid
language sql stable security definer set search_path = '' as $$ select id from gate.keys where secret = p_key $$;

-- The two accounts and users are those of supabase/seed.sql.
create or replace function gate.reset() returns void language plpgsql as $$
begin
  delete from gate.keys; delete from gate.log; perform setval('gate.attempts', 1, false); delete from public.segments; delete from api_keys_private.api_keys;
  insert into gate.keys values
    ('key-valid', 'cccccccc-cccc-4ccc-8ccc-ccccccccccc1'),
    ('key-noscope', 'cccccccc-cccc-4ccc-8ccc-ccccccccccc2'),
    (repeat('k', 20000), 'cccccccc-cccc-4ccc-8ccc-ccccccccccc1');
  insert into api_keys_private.api_keys (id, account_id, name, key_prefix, key_hash, scopes, created_by) values
    ('cccccccc-cccc-4ccc-8ccc-ccccccccccc1', 'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', 'valid', 'gate_c1', 'x1',
     '[{"entity_type":"segment","entity_id":"*","action":"read"}]', '11111111-1111-4111-8111-111111111111'),
    ('cccccccc-cccc-4ccc-8ccc-ccccccccccc2', 'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', 'noscope', 'gate_c2', 'x2',
     '[]', '11111111-1111-4111-8111-111111111111');
  insert into public.segments (id, account_id, name, description, source_type, source_id, filters, tags, created_by,
                               created_at, updated_at)
  select ('00000000-0000-4000-8000-0000000000' || lpad(i::text, 2, '0'))::uuid,
    case when i <= 7 then 'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa' else 'bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb' end::uuid,
    'Segment ' || i, case when i % 2 = 0 then 'even' end, (array['audience','csv_upload','webhook_upload'])[1 + i % 3],
    'src-' || i, jsonb_build_array(jsonb_build_object('field', 'age', 'operator', '>', 'value', i)), array['t' || i % 3],
    case when i <= 7 then '11111111-1111-4111-8111-111111111111' else '22222222-2222-4222-8222-222222222222' end::uuid,
    '2026-01-01 00:00:00+00'::timestamptz + i * interval '1 hour', '2026-02-01 00:00:00+00'::timestamptz
  from generate_series(1, 10) as i;
end $$;

-- The pre-request function itself; requests replace its body (their "setup"), PostgREST need not reload for that.
create or replace function gate.pre_request() returns void language plpgsql security invoker as $$
declare
  v_key text := current_setting('request.headers', true)::json ->> 'x-api-key';
  v_id uuid;
begin
  if v_key is null then return; end if;
  v_id := gate.find_key(v_key);
  if v_id is null then
    raise sqlstate 'PT401' using message = 'unknown api key', detail = 'no such key', hint = 'make one';
  end if;
  perform set_config('request.jwt.claims', json_build_object('role', 'api_key', 'sub', v_id)::text, true);
  perform set_config('role', 'api_key', true);
end $$;
create or replace function gate.other_pre() returns void language plpgsql as $$
begin raise sqlstate 'PT418' using message = 'other_pre ran'; end $$;
create or replace function gate.args(p int) returns void language plpgsql as $$ begin end $$;
create or replace function public.gate_public_pre() returns void language plpgsql as $$
begin raise sqlstate 'PT418' using message = 'gate_public_pre ran'; end $$;

-- What a statement sees.
create or replace view public.gate_seen with (security_invoker = true) as
select current_user::text as current_user, session_user::text as session_user, current_setting('role') as role_setting,
  current_setting('request.jwt.claims', true) as claims, current_setting('request.method', true) as method,
  current_setting('request.path', true) as path, current_setting('request.cookies', true) as cookies,
  current_setting('search_path') as search_path, current_setting('statement_timeout') as statement_timeout,
  current_setting('transaction_read_only') as read_only, current_setting('transaction_isolation') as isolation,
  current_setting('gate.mark', true) as mark, current_setting('application_name') as application_name,
  auth.uid()::text as auth_uid, auth.role() as auth_role;
grant select on public.gate_seen to anon, authenticated, service_role, api_key;
create or replace function public.gate_state() returns json language sql stable as $$
  select row_to_json(s) from public.gate_seen as s $$;
create or replace function public.gate_state_v() returns json language sql volatile as $$
  select row_to_json(s) from public.gate_seen as s $$;
create or replace function public.gate_headers() returns json language sql stable as $$
  -- host and authorization are there too, but differ from run to run
  select json_object_agg(key, value order by key) from json_each_text(current_setting('request.headers', true)::json)
  where key not in ('host', 'authorization') $$;
create or replace function public.gate_key_seen() returns json language sql stable as $$
  select json_build_object(
    'x-api-key', left(current_setting('request.headers', true)::json ->> 'x-api-key', 60),
    'length', length(current_setting('request.headers', true)::json ->> 'x-api-key'),
    'prefer', current_setting('request.headers', true)::json ->> 'prefer',
    'keys like it', (select json_agg(key order by key) from json_each_text(current_setting('request.headers', true)::json)
                     where key ilike '%api-key%' or key ilike 'prefer')) $$;
create or replace function public.gate_sleep(p_seconds float8) returns text language plpgsql volatile as $$
begin perform pg_sleep(p_seconds); return 'slept'; end $$;
create or replace function public.gate_count_log() returns bigint language sql stable security definer as $$
  select count(*) from gate.log $$;

-- A table that everybody may read and write by grant; policies say what.
create table if not exists public.gate_items (
  id integer primary key, owner uuid, name text not null, n integer not null default 0,
  created_at timestamptz not null default '2026-03-01 12:00:00+00');
alter table public.gate_items enable row level security;
grant select, insert, update, delete on public.gate_items to anon, authenticated, service_role, api_key;
drop policy if exists gate_items_owner on public.gate_items;
create policy gate_items_owner on public.gate_items to authenticated using (owner = (select auth.uid()));
drop policy if exists gate_items_api_key on public.gate_items;
create policy gate_items_api_key on public.gate_items to api_key
  using (owner = '11111111-1111-4111-8111-111111111111') with check (n >= 0);
create or replace function gate.fill(p_count integer) returns void language plpgsql as $$
begin
  delete from public.gate_items;
  insert into public.gate_items (id, owner, name, n)
  select i, case when i % 2 = 1 then '11111111-1111-4111-8111-111111111111'
                 else '22222222-2222-4222-8222-222222222222' end::uuid, 'item ' || i, i
  from generate_series(1, p_count) as i;
  analyze public.gate_items;
end $$;

-- Functions to call.
create or replace function public.gate_segments(p_source text default null) returns setof public.segments
language sql stable as $$ select * from public.segments where p_source is null or source_type = p_source $$;
create or replace function public.gate_segments_v() returns setof public.segments
language sql volatile as $$ select * from public.segments $$;
create or replace function public.gate_table() returns table (id uuid, name text)
language sql stable as $$ select id, name from public.segments $$;
create or replace function public.gate_add(p_id uuid, p_account_id uuid, p_name text) returns public.segments
language sql volatile as $$
  insert into public.segments (id, account_id, name, source_type, source_id, created_by, created_at, updated_at)
  values (p_id, p_account_id, p_name, 'audience', 'rpc', auth.uid(), '2026-05-01', '2026-05-01') returning * $$;
create or replace function public.gate_null_segment() returns public.segments language sql stable as $$
  select * from public.segments where false $$;
create or replace function public.gate_null_segment_plpgsql() returns public.segments language plpgsql stable as $$
begin return null; end $$;
create or replace function public.gate_void() returns void language sql volatile as $$ select 1 $$;
create or replace function public.gate_int() returns integer language sql stable as $$ select 42 $$;
create or replace function public.gate_null_int() returns integer language sql stable as $$ select null::integer $$;
create or replace function public.gate_null_jsonb() returns jsonb language sql stable as $$ select null::jsonb $$;
create or replace function public.gate_ints() returns setof integer language sql stable as $$ select generate_series(1, 5) $$;
create or replace function public.gate_jsonbs() returns setof jsonb language sql stable as $$
  select jsonb_build_object('i', i) from generate_series(1, 3) as i $$;
create or replace function public.gate_text() returns text language sql stable as $$ select 'grüße "q"' $$;
create or replace function public.gate_filter(p_filter jsonb default '{"default":true}') returns jsonb language sql stable as $$
  select jsonb_build_object('type', jsonb_typeof(p_filter), 'is_null', p_filter is null, 'value', p_filter) $$;
create or replace function public.gate_filter_of(p_filter jsonb, p_limit integer default 2) returns setof public.segments
language sql stable as $$
  select * from public.segments where filters @> coalesce(p_filter, '[]') order by created_at limit p_limit $$;
create or replace function public.gate_body(jsonb) returns jsonb language sql stable as $$ select jsonb_build_object('got', $1) $$;
create or replace function public.gate_raise(p_state text, p_message text default 'said', p_detail text default null,
  p_hint text default null) returns void language plpgsql volatile as $$
begin
  perform set_config('response.headers', '[{"X-Before": "1"}, {"Retry-After": "5"}]', true);
  if p_detail is null then raise exception using errcode = p_state, message = p_message; end if;
  if p_hint is null then raise exception using errcode = p_state, message = p_message, detail = p_detail; end if;
  raise exception using errcode = p_state, message = p_message, detail = p_detail, hint = p_hint;
end $$;
create or replace function public.gate_respond(p_status text, p_headers text) returns text language plpgsql volatile as $$
begin
  perform set_config('response.status', p_status, true);
  perform set_config('response.headers', p_headers, true);
  return 'body';
end $$;
create or replace function public.gate_touch(p_below integer) returns setof public.gate_items language sql volatile as $$
  update public.gate_items set n = n + 1000 where id <= p_below returning * $$;
create or replace function public.gate_touch_count(p_below integer) returns integer language sql volatile as $$
  with u as (update public.gate_items set n = n + 1000 where id <= p_below returning 1) select count(*)::integer from u $$;
create or replace function public.gate_when() returns json language sql stable as $$
  select json_build_object('zone', current_setting('timezone'), 'at', '2026-03-01 12:00:00+00'::timestamptz) $$;
create or replace function public.gate_pre_config_free() returns text language sql stable set statement_timeout = '3s'
  set timezone = 'Asia/Tokyo' as $$ select current_setting('statement_timeout') || ' ' || current_setting('timezone') $$;

-- Before each request of recorded_migrated.json (unless it says "keep"): select gate.base(); then the request's own "setup".
create or replace function gate.base() returns void language plpgsql as $base$
begin
  execute $std$
create or replace function gate.pre_request() returns void language plpgsql security invoker as $$
declare
  v_key text := current_setting('request.headers', true)::json ->> 'x-api-key';
  v_id uuid;
begin
  if v_key is null then return; end if;
  v_id := gate.find_key(v_key);
  if v_id is null then
    raise sqlstate 'PT401' using message = 'unknown api key', detail = 'no such key', hint = 'make one';
  end if;
  perform set_config('request.jwt.claims', json_build_object('role', 'api_key', 'sub', v_id)::text, true);
  perform set_config('role', 'api_key', true);
end $$
  $std$;
  grant usage on schema public to anon;   -- the migrations leave anon without it
  revoke all on public.segments from anon;
  perform gate.reset(), gate.fill(10);
end $base$;

grant execute on all functions in schema gate to anon, authenticated, service_role, api_key;
revoke execute on function gate.reset(), gate.fill(integer), gate.base() from public, anon, authenticated, service_role, api_key;
do $$ declare f text; begin
  for f in select oid::regprocedure from pg_proc where proname like 'gate\_%' and pronamespace = 'public'::regnamespace loop
    execute format('grant execute on function %s to anon, authenticated, service_role, api_key', f);
  end loop;
end $$;
select gate.base();
alter role authenticator set pgrst.db_pre_request = 'gate.pre_request';
notify pgrst, 'reload config';
notify pgrst, 'reload schema';
