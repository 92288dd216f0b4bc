-- What the SDK needs beyond the first migration: API keys that read and write within their scopes, the progress of jobs
-- with many workers, segments deleted and restored by function, and usage logged in batches.
--
-- One transaction, safe to run again, after 20261122000100_enrichment_segments_api_keys.sql.

begin;

set local search_path = '';
set local lock_timeout = '3s';
set local statement_timeout = '60s';
set local client_min_messages = warning;

do $requirements$
begin
  if to_regprocedure('public.get_api_key_account_id()') is null
    or to_regclass('api_keys_private.live_api_keys') is null
    or to_regclass('public.enrichment_tracking') is null
    or to_regclass('public.segments') is null
  then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: apply 20261122000100_enrichment_segments_api_keys.sql first';
  end if;
end;
$requirements$;

-- `create or replace` can change neither a result nor a default, and an overload would make a call by name ambiguous.
do $functions$
declare
  v_function regprocedure;
begin
  for v_function in
    select function.oid
    from pg_proc as function
    join (
      values
        ('delete_studio_segment', 'void', 'p_segment_id uuid'),
        ('restore_studio_segment', 'public.segments', 'p_segment_id uuid'),
        ('report_enrichment_progress', 'public.enrichment_tracking',
          'p_job_id uuid, p_worker text, p_processed integer, p_failed integer'),
        ('log_api_key_usage_batch',
          'TABLE(event_index integer, success boolean, log_id uuid, "timestamp" timestamp with time zone, error text, error_code text)',
          'p_events jsonb')
    ) as ours (name, result, arguments) on ours.name = function.proname
    where function.pronamespace = 'public'::regnamespace
      and (pg_get_function_result(function.oid) <> ours.result
           or pg_get_function_arguments(function.oid) <> ours.arguments)
  loop
    execute format('drop function %s', v_function);
  end loop;
end;
$functions$;

create schema if not exists enrichment_private;

create table if not exists enrichment_private.worker_progress (
  job_id uuid not null,
  worker text not null,
  processed_records integer not null,
  failed_records integer not null,
  updated_at timestamptz not null default now(),
  constraint worker_progress_pkey primary key (job_id, worker),
  constraint worker_progress_job_id_fkey
    foreign key (job_id) references public.enrichment_tracking (id) on delete cascade
);
alter table enrichment_private.worker_progress enable row level security;

create or replace function api_keys_private.scoped_entity_ids(p_entity_type text, p_actions text[])
returns setof uuid
language sql
stable
-- Definer, because the keys are closed to everybody; it tells only the scopes of the key that the request runs as.
security definer
set search_path = ''
as $$
  select
    -- In a CASE, because nothing else promises that the text is looked at before it is cast.
    case
      when scope.value ->> 'entity_id' ~ '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$'
      then (scope.value ->> 'entity_id')::uuid
    end
  from api_keys_private.live_api_keys as api_key
  cross join lateral jsonb_array_elements(
    case jsonb_typeof(api_key.scopes) when 'array' then api_key.scopes else '[]' end
  ) as scope (value)
  where api_key.id = (select auth.uid())
    and scope.value ->> 'entity_type' in (p_entity_type, '*')
    and scope.value ->> 'action' = any (p_actions || '*'::text);
$$;

create or replace function api_keys_private.has_scope_on_all(p_entity_type text, p_actions text[])
returns boolean
language sql
stable
-- Invoker: has_scope is the caller's own to ask.
security invoker
set search_path = ''
as $$
  select bool_or(public.has_scope(p_entity_type, '*', action)) from unnest(p_actions) as action;
$$;

create or replace function enrichment_private.may_write(p_job public.enrichment_tracking)
returns boolean
language sql
stable
set search_path = ''
as $$
  -- Inside a definer function current_user is its owner, but the setting still says whom the request runs as.
  select case current_setting('role')
    when 'service_role' then true
    when 'authenticated' then public.has_role_on_account((p_job).account_id)
    when 'api_key' then
      (p_job).account_id = public.get_api_key_account_id()
      and (
        api_keys_private.has_scope_on_all('enrichment', '{write}')
        or (p_job).id in (select api_keys_private.scoped_entity_ids('enrichment', '{write}'))
      )
    else false
  end;
$$;

create or replace function public.report_enrichment_progress(
  p_job_id uuid,
  p_worker text,
  p_processed integer,
  p_failed integer
)
returns public.enrichment_tracking
language plpgsql
volatile
-- Definer, because the workers' totals are closed to everybody; members, service_role and keys with the scope only.
security definer
set search_path = ''
as $$
declare
  v_job public.enrichment_tracking;
  v_processed bigint;
  v_failed bigint;
begin
  if p_worker is null or btrim(p_worker) = '' or length(p_worker) > 255 then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the name of a worker must have 1 to 255 characters, not all of them blank';
  end if;
  if p_processed is null or p_processed < 0 or p_failed is null or p_failed < 0 then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'a worker''s totals of processed and failed records must be 0 or more';
  end if;

  select * into v_job from public.enrichment_tracking as job where job.id = p_job_id;
  if enrichment_private.may_write(v_job) then
    -- Only then, so that nobody waits for a job that is not his, or makes others wait. The lock puts the reports on one job
    -- in a row, so that each sum sees all the reports before it.
    select * into v_job from public.enrichment_tracking as job where job.id = p_job_id for no key update;
  end if;
  if enrichment_private.may_write(v_job) is not true then
    raise exception using
      errcode = 'PT404',
      message = 'the enrichment job does not exist, or it is not yours to write';
  end if;
  if v_job.status in ('completed', 'failed') then
    raise exception using
      errcode = 'PT409',
      message = format('the enrichment job is already %s: its progress can no longer change', v_job.status);
  end if;

  -- Totals only grow: a report that comes again, or late, is no news.
  insert into enrichment_private.worker_progress as progress (job_id, worker, processed_records, failed_records)
  values (p_job_id, p_worker, p_processed, p_failed)
  on conflict (job_id, worker) do update
  set
    processed_records = greatest(progress.processed_records, excluded.processed_records),
    failed_records = greatest(progress.failed_records, excluded.failed_records),
    updated_at = now()
  where progress.processed_records < excluded.processed_records
    or progress.failed_records < excluded.failed_records;

  select sum(progress.processed_records), sum(progress.failed_records)
  into v_processed, v_failed
  from enrichment_private.worker_progress as progress
  where progress.job_id = p_job_id;
  if greatest(v_processed, v_failed) > 2147483647 then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the totals of all workers are too large: a job counts up to 2147483647 records';
  end if;

  update public.enrichment_tracking as job
  set
    status = 'processing',
    started_at = coalesce(job.started_at, now()),
    processed_records = v_processed,
    failed_records = v_failed
  where job.id = p_job_id
    and (job.status, job.processed_records, job.failed_records) is distinct from ('processing', v_processed, v_failed)
  returning * into v_job;
  if not found then
    select * into v_job from public.enrichment_tracking as job where job.id = p_job_id;
  end if;
  return v_job;
end;
$$;

create or replace function public.delete_studio_segment(p_segment_id uuid)
returns void
language plpgsql
volatile
-- Definer, so that a segment that is deleted already is found; members only.
security definer
set search_path = ''
as $$
declare
  v_account_id uuid;
begin
  select segment.account_id into v_account_id from public.segments as segment where segment.id = p_segment_id;
  if public.has_role_on_account(v_account_id) is not true then
    raise exception using
      errcode = 'PT404',
      message = 'the segment does not exist, or you are not a member of its account';
  end if;
  update public.segments as segment set deleted = true where segment.id = p_segment_id and not segment.deleted;
end;
$$;

create or replace function public.restore_studio_segment(p_segment_id uuid)
returns public.segments
language plpgsql
volatile
-- Definer, because row security shows deleted segments to nobody; members only.
security definer
set search_path = ''
as $$
declare
  v_segment public.segments;
begin
  select * into v_segment from public.segments as segment where segment.id = p_segment_id;
  if public.has_role_on_account(v_segment.account_id) is not true then
    raise exception using
      errcode = 'PT404',
      message = 'the segment does not exist, or you are not a member of its account';
  end if;
  if v_segment.deleted then
    update public.segments as segment set deleted = false where segment.id = p_segment_id
    returning * into v_segment;
  end if;
  return v_segment;
end;
$$;

create or replace function api_keys_private.log_usage_events(p_events jsonb)
returns table (event_index bigint, log_id uuid, logged_at timestamptz)
language sql
volatile
set search_path = ''
as $$
  with event as (
    select
      element.ordinality - 1 as index,
      gen_random_uuid() as id,
      (element.value ->> 'api_key_id')::uuid as api_key_id,
      element.value ->> 'endpoint' as endpoint,
      element.value ->> 'method' as method,
      (element.value ->> 'status_code')::integer as status_code,
      element.value ->> 'ip_address' as ip_address,
      element.value ->> 'user_agent' as user_agent,
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
  ),
  used as (
    update api_keys_private.api_keys as api_key
    set last_used_at = now()
    where api_key.id in (
      select due.id
      from api_keys_private.api_keys as due
      where due.id in (select event.api_key_id from event)
        and (due.last_used_at is null or due.last_used_at < now() - interval '1 minute')
      for no key update skip locked
    )
  )
  select event.index, event.id, event.logged_at from event order by event.index;
$$;

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
-- Definer, because the logs are closed to everybody; granted to service_role only.
security definer
set search_path = ''
as $$
declare
  c_most constant integer := 1000;
begin
  if jsonb_typeof(p_events) is distinct from 'array' or jsonb_array_length(p_events) > c_most then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = format('events must be an array of at most %s', c_most);
  end if;

  -- Nearly always all of them are good, and one statement writes them. If not, each is tried alone.
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

-- An API key sees what belongs to its account and what one of its scopes covers: all of a kind, or the one that a scope
-- names. Who may write a job may read it.
drop policy if exists segments_select_api_key on public.segments;
create policy segments_select_api_key on public.segments
  for select to api_key
  using (
    account_id = (select public.get_api_key_account_id())
    and not deleted
    and (
      (select api_keys_private.has_scope_on_all('segment', '{read}'))
      or id = any (array(select api_keys_private.scoped_entity_ids('segment', '{read}')))
    )
  );
drop policy if exists enrichment_tracking_select_api_key on public.enrichment_tracking;
create policy enrichment_tracking_select_api_key on public.enrichment_tracking
  for select to api_key
  using (
    account_id = (select public.get_api_key_account_id())
    and (
      (select api_keys_private.has_scope_on_all('enrichment', '{read,write}'))
      or id = any (array(select api_keys_private.scoped_entity_ids('enrichment', '{read,write}')))
    )
  );
drop policy if exists enrichment_tracking_update_api_key on public.enrichment_tracking;
create policy enrichment_tracking_update_api_key on public.enrichment_tracking
  for update to api_key
  using (
    account_id = (select public.get_api_key_account_id())
    and (
      (select api_keys_private.has_scope_on_all('enrichment', '{write}'))
      or id = any (array(select api_keys_private.scoped_entity_ids('enrichment', '{write}')))
    )
  )
  with check (
    account_id = (select public.get_api_key_account_id())
    and (
      (select api_keys_private.has_scope_on_all('enrichment', '{write}'))
      or id = any (array(select api_keys_private.scoped_entity_ids('enrichment', '{write}')))
    )
  );

-- As in the first migration: whatever anybody was given is taken back, and what is granted below is all.
do $privileges$
declare
  v_statement text;
begin
  for v_statement in
    with ours (kind, name, owner, acl) as (
      select 'schema', format('%I', nspname), nspowner, nspacl
      from pg_namespace
      where nspname = 'enrichment_private'
      union all
      select 'table', oid::regclass::text, relowner, relacl
      from pg_class
      where oid = 'enrichment_private.worker_progress'::regclass
      union all
      select 'function', oid::regprocedure::text, proowner, coalesce(proacl, acldefault('f', proowner))
      from pg_proc
      where pronamespace = 'enrichment_private'::regnamespace
         or (pronamespace = 'public'::regnamespace and proname in (
              'report_enrichment_progress', 'delete_studio_segment', 'restore_studio_segment', 'log_api_key_usage_batch'
            ))
         or (pronamespace = 'api_keys_private'::regnamespace and proname in (
              'scoped_entity_ids', 'has_scope_on_all', 'log_usage_events'
            ))
    )
    select distinct
      format(
        'revoke all on %s %s from %s cascade',
        ours.kind,
        ours.name,
        case entry.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(entry.grantee)) end
      )
    from ours
    cross join lateral aclexplode(ours.acl) as entry
    where entry.grantee <> ours.owner
  loop
    execute v_statement;
  end loop;
end;
$privileges$;
revoke all on public.segments, public.enrichment_tracking from api_key cascade;

grant usage on schema enrichment_private to service_role;
grant select, insert, update, delete on enrichment_private.worker_progress to service_role;

grant select on public.segments to api_key;
grant select on public.enrichment_tracking to api_key;
-- Not whose job it is, nor what it is about.
grant update (
  status, total_records, processed_records, failed_records, enrichment_fields, metadata, started_at, completed_at
) on public.enrichment_tracking to api_key;
-- For the policies only: without usage on its schema nobody can call them by name.
grant execute on function api_keys_private.has_scope_on_all(text, text[]) to api_key;
grant execute on function api_keys_private.scoped_entity_ids(text, text[]) to api_key;

grant execute on function public.report_enrichment_progress(uuid, text, integer, integer)
  to authenticated, service_role, api_key;
grant execute on function public.delete_studio_segment(uuid) to authenticated;
grant execute on function public.restore_studio_segment(uuid) to authenticated;
grant execute on function public.log_api_key_usage_batch(jsonb) to service_role;

comment on schema enrichment_private is 'How far each worker of a job has come. Not served by the API, closed to all but service_role.';
comment on table enrichment_private.worker_progress is 'The running totals of each worker of a job; a job''s counters are their sums.';
comment on function enrichment_private.may_write(public.enrichment_tracking) is 'Whether the request may report on the job.';
comment on function api_keys_private.scoped_entity_ids(text, text[]) is
  'The ids that the scopes of the request''s API key name, for an entity type and any of the actions.';
comment on function api_keys_private.has_scope_on_all(text, text[]) is
  'Whether the request''s API key may do any of the actions with every entity of a type.';
comment on function api_keys_private.log_usage_events(jsonb) is 'Writes one log row for each event; all or none.';
comment on function public.report_enrichment_progress(uuid, text, integer, integer) is
  'A worker''s running totals. Repeating a report, or delivering it late, changes nothing.';
comment on function public.delete_studio_segment(uuid) is 'Deletes a segment softly. Members only.';
comment on function public.restore_studio_segment(uuid) is 'Brings a deleted segment back. Members only.';
comment on function public.log_api_key_usage_batch(jsonb) is
  'Writes up to 1,000 log rows, each with its own outcome: one that fails does not lose the others.';

notify pgrst, 'reload schema';

commit;
