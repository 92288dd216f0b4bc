-- The usage of API keys: one log row for each request.
--
-- One transaction, safe to run again. Requires 20261122000200_api_keys.sql.

begin;

set local search_path = '';
set local lock_timeout = '3s';
set local statement_timeout = '10min';
select pg_advisory_xact_lock(hashtext('audiencelab migrations'));
set local client_min_messages = warning;

do $requirements$
begin
  if to_regclass('api_keys_private.live_api_keys') is null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: apply 20261122000200_api_keys.sql first';
  end if;
end;
$requirements$;
select audiencelab_private.require_ownership('api_keys_private', '{api_key_logs}');
select audiencelab_private.require_ownership('public', '{log_api_key_usage,log_api_key_usage_batch,api_key_log}');

-- The tables are created in this schema, then applied to those of the database.
create schema audiencelab_desired;

create table audiencelab_desired.api_key_logs (
  id uuid not null default gen_random_uuid(),
  api_key_id uuid,
  endpoint text not null,
  method text not null,
  status_code integer,
  ip_address text,
  user_agent text,
  timestamp timestamptz not null default now(),
  constraint api_key_logs_pkey primary key (id)
);
-- A check constraint that is NOT VALID, instead of NOT NULL: older rows without a key are kept, new rows require one.
alter table audiencelab_desired.api_key_logs
  add constraint api_key_logs_api_key_id_check check (api_key_id is not null) not valid;
create index api_key_logs_api_key_id_timestamp_idx on audiencelab_desired.api_key_logs (api_key_id, timestamp desc);
-- Rows are inserted in the order of time, so a BRIN index is enough to find the oldest.
create index api_key_logs_timestamp_idx on audiencelab_desired.api_key_logs using brin (timestamp);

select audiencelab_private.apply_table('api_keys_private', 'api_key_logs');
comment on table api_keys_private.api_key_logs is 'One row for each use of an API key.';
-- No policies: only service_role has access, and it bypasses row level security.
grant select, insert, update, delete on api_keys_private.api_key_logs to service_role;

create type audiencelab_desired.api_key_usage_log_response as (
  success boolean,
  log_id uuid,
  timestamp timestamptz,
  error text,
  error_code text
);
select audiencelab_private.apply_type('api_key_usage_log_response');
comment on type public.api_key_usage_log_response is
  'The result of log_api_key_usage: the id and time of the log row, or the message and SQLSTATE of the error.';

-- CREATE OR REPLACE cannot change the result type or the names of parameters, and an overload would make calls with named
-- arguments ambiguous.
select audiencelab_private.prepare_functions(
  'log_api_key_usage(p_api_key_id uuid, p_endpoint text, p_method text, p_status_code integer, p_ip_address text,
     p_user_agent text)
   returns public.api_key_usage_log_response',
  'log_api_key_usage_batch(p_events jsonb)
   returns TABLE(event_index integer, success boolean, log_id uuid, "timestamp" timestamp with time zone, error text,
     error_code text)',
  'api_key_log(p_account_id uuid, p_api_key_id uuid DEFAULT NULL::uuid, p_limit integer DEFAULT 100,
     p_before timestamp with time zone DEFAULT NULL::timestamp with time zone, p_before_id uuid DEFAULT NULL::uuid)
   returns TABLE(id uuid, api_key_id uuid, endpoint text, method text, status_code integer, ip_address text,
     user_agent text, "timestamp" timestamp with time zone)'
);

create or replace function public.log_api_key_usage(
  p_api_key_id uuid,
  p_endpoint text,
  p_method text,
  p_status_code integer,
  p_ip_address text,
  p_user_agent text
)
returns public.api_key_usage_log_response
language plpgsql
volatile
-- Definer: the owner has the privileges on the table and on the functions below. Only service_role may call it.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid;
  v_timestamp timestamptz;
begin
  insert into api_keys_private.api_key_logs as log (api_key_id, endpoint, method, status_code, ip_address, user_agent)
  values (
    p_api_key_id,
    -- Values from clients are truncated, because an error would lose the log row.
    left(p_endpoint, 2000),
    left(p_method, 255),
    p_status_code,
    left(p_ip_address, 255),
    left(p_user_agent, 1000)
  )
  returning log.id, log.timestamp into v_id, v_timestamp;

  -- At most once a minute, and without waiting for a concurrent update, so that uses of the same key do not queue.
  update api_keys_private.api_keys as api_key
  set last_used_at = now()
  where api_key.id = (
    select due.id
    from api_keys_private.api_keys as due
    where due.id = p_api_key_id
      and (due.last_used_at is null or due.last_used_at < now() - interval '1 minute')
    for no key update skip locked
  );

  return row(true, v_id, v_timestamp, null::text, null::text)::public.api_key_usage_log_response;
exception
  when others then
    return row(false, null::uuid, null::timestamptz, sqlerrm, sqlstate)::public.api_key_usage_log_response;
end;
$$;
comment on function public.log_api_key_usage(uuid, text, text, integer, text, text) is
$$Writes one log row for a use of an API key, and updates last_used_at of the key at most once a minute. It does not raise an
error: success is false, and error and error_code are the message and the SQLSTATE.

Callers: service_role.

- p_endpoint, p_method: required; truncated to 2,000 and 255 characters.
- p_status_code: the HTTP status, or null.
- p_ip_address, p_user_agent: null, or truncated to 255 and 1,000 characters.$$;
select audiencelab_private.revoke_privileges('public', '{log_api_key_usage}');
grant execute on function public.log_api_key_usage(uuid, text, text, integer, text, text) to service_role;

create or replace function api_keys_private.log_usage_events(p_events jsonb)
returns table (event_index bigint, log_id uuid, logged_at timestamptz)
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  with event as (
    select
      element.ordinality - 1 as index,
      (element.value ->> 'log_id')::uuid as given_id,
      coalesce((element.value ->> 'log_id')::uuid, gen_random_uuid()) as id,
      (element.value ->> 'api_key_id')::uuid as api_key_id,
      left(element.value ->> 'endpoint', 2000) as endpoint,
      left(element.value ->> 'method', 255) as method,
      (element.value ->> 'status_code')::integer as status_code,
      left(element.value ->> 'ip_address', 255) as ip_address,
      left(element.value ->> 'user_agent', 1000) as user_agent,
      coalesce((element.value ->> 'timestamp')::timestamptz, now()) as logged_at
    from jsonb_array_elements(p_events) with ordinality as element (value, ordinality)
  ),
  logged as (
    insert into api_keys_private.api_key_logs (
      id, api_key_id, endpoint, method, status_code, ip_address, user_agent, timestamp
    )
    select
      event.id, event.api_key_id, event.endpoint, event.method, event.status_code, event.ip_address, event.user_agent,
      event.logged_at
    from event
    -- Without a target, so that it also holds for the primary key of a partitioned log.
    on conflict do nothing
    returning id, api_key_id
  ),
  used as (
    update api_keys_private.api_keys as api_key
    set last_used_at = now()
    where api_key.id in (
      select due.id
      from api_keys_private.api_keys as due
      where due.id in (select logged.api_key_id from logged)
        and (due.last_used_at is null or due.last_used_at < now() - interval '1 minute')
      for no key update skip locked
    )
  )
  select event.index, event.id, coalesce(repeated.timestamp, event.logged_at)
  from event
  left join api_keys_private.api_key_logs as repeated on repeated.id = event.given_id
  order by event.index;
$$;
comment on function api_keys_private.log_usage_events(jsonb) is
  'Writes one log row for each event, except for events whose log_id is already logged, or none if one of them fails.'
  ' event_index counts from 0.';
select audiencelab_private.revoke_privileges('api_keys_private', '{log_usage_events}');

create or replace function public.log_api_key_usage_batch(p_events jsonb)
returns table (
  event_index integer,
  success boolean,
  log_id uuid,
  "timestamp" timestamptz,
  error text,
  error_code text
)
language plpgsql
volatile
-- Definer: the owner has the privileges on the table and on the functions below. Only service_role may call it.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  c_max_events constant integer := 1000;
begin
  if jsonb_typeof(p_events) is distinct from 'array' or jsonb_array_length(p_events) > c_max_events then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format('events must be an array of at most %s objects', c_max_events);
  end if;

  -- Usually all events are valid, and one statement inserts them. If it fails, each event is inserted separately.
  begin
    return query
      select logged.event_index::integer, true, logged.log_id, logged.logged_at, null::text, null::text
      from api_keys_private.log_usage_events(p_events) as logged;
    return;
  exception
    when others then
      null;
  end;

  for v_index in 0..jsonb_array_length(p_events) - 1 loop
    event_index := v_index;
    begin
      select true, logged.log_id, logged.logged_at, null::text, null::text
      into success, log_id, "timestamp", error, error_code
      from api_keys_private.log_usage_events(jsonb_build_array(p_events -> v_index)) as logged;
    exception
      when others then
        success := false;
        log_id := null;
        "timestamp" := null;
        error := sqlerrm;
        error_code := sqlstate;
    end;
    return next;
  end loop;
end;
$$;
comment on function public.log_api_key_usage_batch(jsonb) is
$$Writes a log row for each of up to 1,000 uses of API keys. Returns one row for each event, in their order: the id and time of
the log row, or the message and the SQLSTATE of the error. A failed event does not affect the others.

If each event has a log_id, the call can be repeated after an error or a lost response: an event whose log_id is already
logged is not written or counted again, and its success is true. A log_id is recognized until its log row is purged.

Callers: service_role.

- p_events: an array of objects with api_key_id, endpoint and method, and optionally log_id, status_code, ip_address,
  user_agent and timestamp. log_id is the id of the log row, a UUID; timestamp defaults to now(). Texts are truncated as by
  log_api_key_usage.

Errors: 22023 if p_events is not an array or has more than 1,000 elements.$$;
select audiencelab_private.revoke_privileges('public', '{log_api_key_usage_batch}');
grant execute on function public.log_api_key_usage_batch(jsonb) to service_role;

create or replace function api_keys_private.require_reader(p_account_id uuid, p_api_key_id uuid)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  if not audiencelab_private.is_service() then
    perform audiencelab_private.require_member(p_account_id);
  end if;
  if p_api_key_id is not null and not exists (
    select
    from api_keys_private.api_keys as api_key
    where api_key.id = p_api_key_id and api_key.account_id = p_account_id
  ) then
    raise exception using
      errcode = 'PT404',
      message = 'the API key does not exist, or it belongs to another account';
  end if;
end;
$$;
comment on function api_keys_private.require_reader(uuid, uuid) is
  'Raises 42501 unless the caller is service_role or a member of the account, and PT404 if the API key, unless it is null,'
  ' does not belong to the account.';
select audiencelab_private.revoke_privileges('api_keys_private', '{require_reader}');

create or replace function public.api_key_log(
  p_account_id uuid,
  p_api_key_id uuid default null,
  p_limit integer default 100,
  p_before timestamptz default null,
  p_before_id uuid default null
)
returns table (
  id uuid,
  api_key_id uuid,
  endpoint text,
  method text,
  status_code integer,
  ip_address text,
  user_agent text,
  "timestamp" timestamptz
)
language plpgsql
stable
-- Definer: callers have no access to the tables. The function checks membership itself, except for service_role.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  c_max_limit constant integer := 1000;
  -- Without p_before, the bounds are the greatest values, so that there is one query with one plan.
  c_before constant timestamptz := coalesce(p_before, 'infinity');
  c_before_id constant uuid := case when p_before is null then 'ffffffff-ffff-ffff-ffff-ffffffffffff' else p_before_id end;
begin
  perform api_keys_private.require_reader(p_account_id, p_api_key_id);
  if p_limit is null or p_limit not between 1 and c_max_limit then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format('the limit must be between 1 and %s', c_max_limit);
  end if;

  return query
    select
      log.id, log.api_key_id, log.endpoint, log.method, log.status_code, log.ip_address, log.user_agent, log.timestamp
    from api_keys_private.api_keys as api_key
    -- For each key, so that each is read from the index, newest first, and no further than needed.
    cross join lateral (
      select newest.*
      from api_keys_private.api_key_logs as newest
      where newest.api_key_id = api_key.id and (newest.timestamp, newest.id) < (c_before, c_before_id)
      order by newest.timestamp desc, newest.id desc
      limit p_limit
    ) as log
    where api_key.account_id = p_account_id and (p_api_key_id is null or api_key.id = p_api_key_id)
    order by log.timestamp desc, log.id desc
    limit p_limit;
end;
$$;
comment on function public.api_key_log(uuid, uuid, integer, timestamptz, uuid) is
$$Returns the logged requests of the API keys of an account, or of one of them, newest first.

Callers: service_role; authenticated, as a member of the account.

- p_api_key_id: an API key of the account. Null, the default, means all of them, including those that are not live.
- p_limit: the maximum number of rows, from 1 to 1,000.
- p_before, p_before_id: the timestamp and id of the last row of the previous page. Null, the default, means the first page.
  With a timestamp alone, only earlier requests are returned.

Errors: 42501 if the account does not exist or the caller is not a member of it; PT404 (HTTP 404) if the API key does not
belong to the account; 22023 if p_limit is out of range.$$;
select audiencelab_private.revoke_privileges('public', '{api_key_log}');
grant execute on function public.api_key_log(uuid, uuid, integer, timestamptz, uuid) to authenticated, service_role;

drop schema audiencelab_desired cascade;

-- Foreign keys come last, because adding one locks the referenced table until the transaction ends.
select audiencelab_private.apply_foreign_keys('api_keys_private.api_key_logs', '{
  "api_key_logs_api_key_id_fkey":
    "FOREIGN KEY (api_key_id) REFERENCES api_keys_private.api_keys(id) ON DELETE CASCADE"
}');

notify pgrst, 'reload schema';

commit;
