-- The usage of API keys: one log row for each request, and counts by hour that remain after log rows are purged.
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
select audiencelab_private.require_ownership(
  'api_keys_private', '{api_key_logs,api_key_log_positions,api_key_usage_hours,api_key_usage_progress}'
);
select audiencelab_private.require_ownership(
  'public', '{log_api_key_usage,log_api_key_usage_batch,api_key_log,api_key_usage,purge_api_key_logs}'
);

-- Log rows are counted in the order of their positions. They are taken by the default of a column, so that rows of all
-- writers have them.
create sequence if not exists api_keys_private.api_key_log_positions;
select audiencelab_private.revoke_privileges('api_keys_private', '{api_key_log_positions}');
grant usage on sequence api_keys_private.api_key_log_positions to service_role;

-- Older rows have position 0. PostgreSQL adds a column with a constant default without writing the rows. supabase/prepare.sql
-- may have added it.
do $position$
declare
  c_table constant regclass := to_regclass('api_keys_private.api_key_logs');
begin
  if c_table is null then
    return;
  end if;
  if not exists (select from audiencelab_private.table_columns(c_table) where name = 'position') then
    alter table api_keys_private.api_key_logs add column position bigint not null default 0;
  end if;
  if exists (select from audiencelab_private.table_columns(c_table) where name = 'position' and expression = '0') then
    alter table api_keys_private.api_key_logs alter column position
      set default case when pg_current_xact_id() is not null then nextval('api_keys_private.api_key_log_positions') end;
  end if;
end;
$position$;

create or replace function api_keys_private.time_ordered_id()
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  -- 48 bits of milliseconds, then random bits. The last two bits change the version from 4 (0100) to 7 (0111).
  return encode(
    set_bit(
      set_bit(
        overlay(
          uuid_send(gen_random_uuid())
          placing substring(int8send(floor(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1
        ),
        52, 1
      ),
      53, 1
    ),
    'hex'
  )::uuid;
end;
$$;
comment on function api_keys_private.time_ordered_id() is
  'Returns a UUID of version 7 (RFC 9562). New rows are added at the end of the index. Random ids would spread them over all'
  ' its pages.';
select audiencelab_private.revoke_privileges('api_keys_private', '{time_ordered_id}');

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
  -- CASE evaluates the condition first, so a transaction has an id before it takes a position. roll_up_usage relies on it.
  position bigint not null default
    case when pg_current_xact_id() is not null then nextval('api_keys_private.api_key_log_positions') end,
  constraint api_key_logs_pkey primary key (id)
);
-- A check constraint that is NOT VALID, instead of NOT NULL: older rows without a key are kept, new rows require one.
alter table audiencelab_desired.api_key_logs
  add constraint api_key_logs_api_key_id_check check (api_key_id is not null) not valid;
-- Not a trigger as for other limits, because it would take a tenth of the time of logging. Log rows are not updated.
alter table audiencelab_desired.api_key_logs
  add constraint api_key_logs_timestamp_check
  check (timestamp >= '0001-01-01 00:00:00+00' and timestamp < '10000-01-01 00:00:00+00') not valid;
create index api_key_logs_api_key_id_timestamp_idx on audiencelab_desired.api_key_logs (api_key_id, timestamp desc);
-- The oldest rows are purged first.
create index api_key_logs_timestamp_idx on audiencelab_desired.api_key_logs (timestamp);
-- The latest rows are not rolled up yet.
create index api_key_logs_position_idx on audiencelab_desired.api_key_logs (position);

do $logs$
begin
  if (select relkind from pg_class where oid = to_regclass('api_keys_private.api_key_logs')) = 'p' then
    raise warning 'api_keys_private.api_key_logs is partitioned, so the migration does not alter it';
    perform audiencelab_private.revoke_privileges('api_keys_private', '{api_key_logs}');
  else
    perform audiencelab_private.apply_table('api_keys_private', 'api_key_logs');
  end if;
end;
$logs$;
comment on table api_keys_private.api_key_logs is 'One row for each use of an API key.';
-- No policies: only service_role has access, and it bypasses row level security.
grant select, insert, update, delete on api_keys_private.api_key_logs to service_role;

comment on column api_keys_private.api_key_logs.position is
  'The order in which rows are rolled up; 0 for rows from before the roll-ups. Not the order in which they are committed.';

create table audiencelab_desired.api_key_usage_hours (
  api_key_id uuid not null,
  hour timestamptz not null,
  requests bigint not null,
  errors bigint not null,
  last_used_at timestamptz not null,
  constraint api_key_usage_hours_pkey primary key (api_key_id, hour)
);
select audiencelab_private.apply_table('api_keys_private', 'api_key_usage_hours');
comment on table api_keys_private.api_key_usage_hours is
  'The counts of the log rows that are rolled up, by API key and hour in UTC. They remain when the rows are purged.';
comment on column api_keys_private.api_key_usage_hours.errors is 'The number of requests with a status_code of 400 or more.';
comment on column api_keys_private.api_key_usage_hours.last_used_at is 'The time of the latest request in the hour.';
-- No policies: only service_role has access, and it bypasses row level security.
grant select on api_keys_private.api_key_usage_hours to service_role;

create table audiencelab_desired.api_key_usage_progress (
  id boolean not null default true,
  rolled_up_to bigint not null default -1,
  next_position bigint not null default 0,
  next_xact_id xid8 not null default '0',
  constraint api_key_usage_progress_pkey primary key (id),
  constraint api_key_usage_progress_id_check check (id)
);
select audiencelab_private.apply_table('api_keys_private', 'api_key_usage_progress');
comment on table api_keys_private.api_key_usage_progress is 'How far the log is rolled up, in one row.';
comment on column api_keys_private.api_key_usage_progress.rolled_up_to is
  'The last position that is rolled up. Rows with greater positions are counted when the usage is read.';
comment on column api_keys_private.api_key_usage_progress.next_position is
  'The position to roll up to when all transactions with ids below next_xact_id have ended.';
insert into api_keys_private.api_key_usage_progress default values on conflict do nothing;
grant select on api_keys_private.api_key_usage_progress to service_role;

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
     user_agent text, "timestamp" timestamp with time zone)',
  'api_key_usage(p_account_id uuid, p_from timestamp with time zone, p_to timestamp with time zone,
     p_bucket text DEFAULT ''day''::text, p_api_key_id uuid DEFAULT NULL::uuid)
   returns TABLE(api_key_id uuid, bucket timestamp with time zone, requests bigint, errors bigint,
     last_used_at timestamp with time zone)',
  'purge_api_key_logs(p_before timestamp with time zone, p_limit integer DEFAULT 10000) returns integer'
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
  insert into api_keys_private.api_key_logs as log (id, api_key_id, endpoint, method, status_code, ip_address, user_agent)
  values (
    api_keys_private.time_ordered_id(),
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
-- Not language sql, whose statements PostgreSQL plans in each call.
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    with event as (
      select
        element.ordinality - 1 as index,
        (element.value ->> 'log_id')::uuid as given_id,
        coalesce((element.value ->> 'log_id')::uuid, api_keys_private.time_ordered_id()) as id,
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
    select
      event.index,
      event.id,
      -- Not a join, which could read the whole log.
      coalesce(
        (select repeated.timestamp from api_keys_private.api_key_logs as repeated where repeated.id = event.given_id),
        event.logged_at
      )
    from event
    order by event.index;
end;
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
      where newest.api_key_id = api_key.id
        and (newest.timestamp, newest.id) < (c_before, c_before_id)
        -- Implied by the above, which does not exclude partitions.
        and newest.timestamp <= c_before
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

-- A time is no watermark for the roll-up: a row can be committed after rows with later times are counted. Neither is a
-- position, for the same reason. But the default of position assigns the transaction's id first. So when the roll-up notes
-- the last position that was taken, and then the next transaction id, all rows up to that position belong to transactions
-- with lower ids. They are counted when these transactions have ended: at once if none of them is running, otherwise by a
-- later call. Until then, they are counted when the usage is read. Transaction ids differ between database servers, and
-- positions do not, so that the counts are still right after a dump is restored on another server.
create or replace function api_keys_private.roll_up_usage()
returns bigint
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  -- If the caller's transaction has an id already, it is no upper bound of the ids of the others.
  c_is_new constant boolean := pg_current_xact_id_if_assigned() is null;
  c_last_position constant bigint := (
    select case when is_called then last_value else 0 end from api_keys_private.api_key_log_positions
  );
  v_progress api_keys_private.api_key_usage_progress;
  v_xact_id xid8;
  v_oldest_running xid8;
  v_roll_up_to bigint;
begin
  -- Only one session rolls up at a time. Others need not wait for it.
  select * into v_progress from api_keys_private.api_key_usage_progress for update skip locked;
  if not found then
    return (select progress.rolled_up_to from api_keys_private.api_key_usage_progress as progress);
  end if;

  v_xact_id := pg_current_xact_id();
  v_oldest_running := pg_snapshot_xmin(pg_current_snapshot());
  v_roll_up_to := greatest(
    v_progress.rolled_up_to,
    case when v_progress.next_xact_id <= v_oldest_running then v_progress.next_position end,
    case when c_is_new and v_xact_id <= v_oldest_running then c_last_position end
  );
  -- The noted position is replaced only when it is reached, so that new transactions cannot defer it for ever. An id that is
  -- greater than the caller's is from another server.
  if c_is_new and (v_progress.next_xact_id <= v_oldest_running or v_progress.next_xact_id > v_xact_id) then
    v_progress.next_position := c_last_position;
    v_progress.next_xact_id := v_xact_id;
  end if;

  insert into api_keys_private.api_key_usage_hours as usage (api_key_id, hour, requests, errors, last_used_at)
  select
    log.api_key_id,
    date_trunc('hour', log.timestamp, 'UTC'),
    count(*),
    count(*) filter (where log.status_code >= 400),
    max(log.timestamp)
  from api_keys_private.api_key_logs as log
  where log.position > v_progress.rolled_up_to and log.position <= v_roll_up_to and log.api_key_id is not null
  group by 1, 2
  on conflict (api_key_id, hour) do update
  set
    requests = usage.requests + excluded.requests,
    errors = usage.errors + excluded.errors,
    last_used_at = greatest(usage.last_used_at, excluded.last_used_at);

  update api_keys_private.api_key_usage_progress as progress
  set
    rolled_up_to = v_roll_up_to,
    next_position = v_progress.next_position,
    next_xact_id = v_progress.next_xact_id
  where progress.id;
  return v_roll_up_to;
end;
$$;
comment on function api_keys_private.roll_up_usage() is
  'Adds log rows to the counts of api_key_usage_hours, and returns the last position that is counted. It counts the rows of'
  ' transactions that began before the oldest running one, and each row once. It can be called at any time, by many sessions'
  ' at once.';
select audiencelab_private.revoke_privileges('api_keys_private', '{roll_up_usage}');

create or replace function public.api_key_usage(
  p_account_id uuid,
  p_from timestamptz,
  p_to timestamptz,
  p_bucket text default 'day',
  p_api_key_id uuid default null
)
returns table (
  api_key_id uuid,
  bucket timestamptz,
  requests bigint,
  errors bigint,
  last_used_at timestamptz
)
language plpgsql
stable
-- Definer: callers have no access to the tables. The function checks membership itself, except for service_role.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_from timestamptz;
  v_to timestamptz;
  v_api_key_ids uuid[];
  v_rolled_up_to bigint;
begin
  perform api_keys_private.require_reader(p_account_id, p_api_key_id);
  if (p_from >= '0001-01-01 00:00:00+00' and p_from < p_to and p_to <= '10000-01-01 00:00:00+00') is not true then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format('the range must end after it begins, in the years 1 to 9999: it is from %s to %s', p_from, p_to);
  end if;
  if p_bucket is null or p_bucket not in ('hour', 'day', 'month') then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the bucket must be hour, day or month';
  end if;

  v_from := date_trunc('hour', p_from, 'UTC');
  v_to := date_trunc('hour', p_to + interval '1 hour' - interval '1 microsecond', 'UTC');
  -- All statements of a stable function read one snapshot, so that each row is counted once, even if it is rolled up meanwhile.
  select array_agg(api_key.id)
  into v_api_key_ids
  from api_keys_private.api_keys as api_key
  where api_key.account_id = p_account_id and (p_api_key_id is null or api_key.id = p_api_key_id);
  select progress.rolled_up_to into v_rolled_up_to from api_keys_private.api_key_usage_progress as progress;

  -- Dynamic, so that it is planned for these values: a cached plan does not know how few rows are not rolled up.
  return query execute $query$
    with counted as (
      select usage.api_key_id, usage.hour as time, usage.requests, usage.errors, usage.last_used_at
      from api_keys_private.api_key_usage_hours as usage
      where usage.api_key_id = any ($1) and usage.hour >= $2 and usage.hour < $3
      union all
      select log.api_key_id, log.timestamp, 1, coalesce(log.status_code >= 400, false)::integer, log.timestamp
      from api_keys_private.api_key_logs as log
      where log.position > $4 and log.api_key_id = any ($1) and log.timestamp >= $2 and log.timestamp < $3
    )
    select
      counted.api_key_id,
      date_trunc($5, counted.time, 'UTC'),
      sum(counted.requests)::bigint,
      sum(counted.errors)::bigint,
      max(counted.last_used_at)
    from counted
    group by 1, 2
    order by 2, 1
  $query$
  using v_api_key_ids, v_from, v_to, v_rolled_up_to, p_bucket;
end;
$$;
comment on function public.api_key_usage(uuid, timestamptz, timestamptz, text, uuid) is
$$Returns the number of requests of the API keys of an account, by key and bucket of time, ordered by bucket and key: how many
were logged, how many of them have a status_code of 400 or more, and the time of the latest. Buckets without requests are
omitted. All committed log rows are counted, and those that were purged with purge_api_key_logs.

Callers: service_role; authenticated, as a member of the account.

- p_from, p_to: the range of the logged times, extended to full hours. Buckets at its ends count only the hours in the range.
- p_bucket: hour, day or month, in UTC.
- p_api_key_id: an API key of the account. Null, the default, means all of them, including those that are not live.

Errors: 42501 if the account does not exist or the caller is not a member of it; PT404 (HTTP 404) if the API key does not
belong to the account; 22023 for an invalid argument.$$;
select audiencelab_private.revoke_privileges('public', '{api_key_usage}');
grant execute on function public.api_key_usage(uuid, timestamptz, timestamptz, text, uuid) to authenticated, service_role;

create or replace function public.purge_api_key_logs(p_before timestamptz, p_limit integer default 10000)
returns integer
language plpgsql
volatile
-- Definer: the owner may execute roll_up_usage. Only service_role may call it.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  c_max_limit constant integer := 1000000;
  c_chunk constant integer := 10000;
  v_rolled_up_to bigint;
  v_began_at timestamptz;
  v_ids uuid[];
  v_first timestamptz;
  v_last timestamptz := timestamptz '-infinity';
  v_chunk integer;
  v_deleted integer := 0;
begin
  if p_before is null then
    raise exception using errcode = 'invalid_parameter_value', message = 'the time must not be null';
  end if;
  if p_limit is null or p_limit not between 1 and c_max_limit then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format('the limit must be between 1 and %s', c_max_limit);
  end if;

  v_rolled_up_to := api_keys_private.roll_up_usage();
  loop
    v_began_at := clock_timestamp();
    -- Concurrent calls delete different rows.
    select array_agg(oldest.id), min(oldest.timestamp), max(oldest.timestamp)
    into v_ids, v_first, v_last
    from (
      select log.id, log.timestamp
      from api_keys_private.api_key_logs as log
      -- The index still contains the rows that were deleted before v_last.
      where log.timestamp < p_before and log.timestamp >= v_last and log.position <= v_rolled_up_to
      order by log.timestamp
      limit least(c_chunk, p_limit - v_deleted)
      for update skip locked
    ) as oldest;
    exit when v_ids is null;
    -- The times exclude other partitions, if the log is partitioned.
    delete from api_keys_private.api_key_logs as log
    where log.id = any (v_ids) and log.timestamp between v_first and v_last;
    get diagnostics v_chunk = row_count;
    v_deleted := v_deleted + v_chunk;
    exit when v_chunk < c_chunk;
    -- Pauses for as long as the deletion took, as VACUUM does, so that requests that are logged meanwhile are not much slower.
    perform pg_sleep_for(clock_timestamp() - v_began_at);
    exit when v_deleted = p_limit;
  end loop;
  return v_deleted;
end;
$$;
comment on function public.purge_api_key_logs(timestamptz, integer) is
$$Deletes log rows from before a time, the oldest first, and returns how many. Their requests remain counted in api_key_usage.
Rows that cannot be counted yet, because a transaction from before them is still running, are left for a later call. Requests
that are logged meanwhile do not wait.

Callers: service_role.

- p_before: the rows from before this time are deleted.
- p_limit: the maximum number of rows, from 1 to 1,000,000. If as many were deleted, repeat the call.

Errors: 22023 if p_before is null or p_limit is out of range.$$;
select audiencelab_private.revoke_privileges('public', '{purge_api_key_logs}');
grant execute on function public.purge_api_key_logs(timestamptz, integer) to service_role;

create or replace function api_keys_private.keep_api_key_logs(p_period interval)
returns bigint
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_period is null or p_period < interval '1 hour' then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format('log rows must be kept for at least 1 hour, not for %s', coalesce(p_period::text, 'null'));
  end if;
  if not exists (select from pg_extension where extname = 'pg_cron') then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'the purge cannot be scheduled, because the extension pg_cron is not installed in this database',
      hint = 'Run "create extension pg_cron", or call purge_api_key_logs regularly.';
  end if;
  return cron.schedule(
    'keep_api_key_logs',
    '*/5 * * * *',
    format('select public.purge_api_key_logs(now() - interval %L, 1000000)', p_period)
  );
end;
$$;
comment on function api_keys_private.keep_api_key_logs(interval) is
$$Schedules the purge of log rows that are older than a period, every five minutes, and returns the id of the job of pg_cron.
Each run also rolls up the usage. A repeated call replaces the period. To keep all rows again, run: select
cron.unschedule('keep_api_key_logs').

Callers: postgres, in SQL.

- p_period: at least 1 hour.

Errors: 22023 if p_period is null or too short; 55000 if pg_cron is not installed.$$;
select audiencelab_private.revoke_privileges('api_keys_private', '{keep_api_key_logs}');

drop schema audiencelab_desired cascade;

-- Foreign keys come last, because adding one locks the referenced table until the transaction ends.
select audiencelab_private.apply_foreign_keys('api_keys_private.api_key_logs', '{
  "api_key_logs_api_key_id_fkey":
    "FOREIGN KEY (api_key_id) REFERENCES api_keys_private.api_keys(id) ON DELETE CASCADE"
}');
select audiencelab_private.apply_foreign_keys('api_keys_private.api_key_usage_hours', '{
  "api_key_usage_hours_api_key_id_fkey":
    "FOREIGN KEY (api_key_id) REFERENCES api_keys_private.api_keys(id) ON DELETE CASCADE"
}');

notify pgrst, 'reload schema';

commit;
