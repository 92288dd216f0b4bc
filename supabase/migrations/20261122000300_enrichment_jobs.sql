-- Enrichment jobs: their counters, their status, and the progress of each worker.
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
  if to_regprocedure('api_keys_private.caller_may_write(text, uuid, uuid)') is null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: apply 20261122000200_api_keys.sql first';
  end if;
end;
$requirements$;
select audiencelab_private.require_ownership('enrichment_private', '{worker_progress}');
select audiencelab_private.require_ownership(
  'public', '{enrichment_tracking,report_enrichment_progress,reset_enrichment_progress}'
);

create schema if not exists enrichment_private;
comment on schema enrichment_private is 'The progress of the workers of enrichment jobs. Not exposed by the REST API.';
select audiencelab_private.revoke_privileges('enrichment_private');
grant usage on schema enrichment_private to service_role;

create or replace function enrichment_private.keep_counters()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
  -- Functions that run as the owner of the table may decrease the counters.
  if current_user <> 'service_role'
    and not pg_has_role((select relowner from pg_class where oid = tg_relid), 'usage')
  then
    raise exception using
      errcode = 'insufficient_privilege',
      message = 'only service_role may decrease processed_records or failed_records';
  end if;
  return new;
end;
$$;
comment on function enrichment_private.keep_counters() is
  'Trigger function, before an update that decreases a counter: raises 42501, except for service_role and the table owner.';
select audiencelab_private.revoke_privileges('enrichment_private', '{keep_counters}');

-- The tables are created in this schema, then applied to those of the database.
create schema audiencelab_desired;

create table audiencelab_desired.enrichment_tracking (
  id uuid not null default gen_random_uuid(),
  account_id uuid not null,
  audience_id uuid not null,
  enrichment_type text not null,
  status text not null default 'pending',
  total_records integer not null default 0,
  processed_records integer not null default 0,
  failed_records integer not null default 0,
  enrichment_fields text[] not null default '{}',
  metadata jsonb not null default '{}',
  started_at timestamptz,
  completed_at timestamptz,
  created_by uuid not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint enrichment_tracking_pkey primary key (id),
  constraint enrichment_tracking_enrichment_type_check
    check (enrichment_type in ('email', 'phone', 'company', 'social', 'custom')),
  constraint enrichment_tracking_status_check check (status in ('pending', 'processing', 'completed', 'failed'))
);
-- Lists are read newest first within an account; id makes the order total.
create index enrichment_tracking_account_id_created_at_id_idx
  on audiencelab_desired.enrichment_tracking (account_id, created_at desc, id desc);
create index enrichment_tracking_account_id_status_created_at_idx
  on audiencelab_desired.enrichment_tracking (account_id, status, created_at desc);
create index enrichment_tracking_audience_id_created_at_idx
  on audiencelab_desired.enrichment_tracking (audience_id, created_at desc);
create index enrichment_tracking_created_by_idx on audiencelab_desired.enrichment_tracking (created_by);
-- BRIN, because the planner could scan a B-tree of all accounts for one page of an account.
create index enrichment_tracking_created_at_idx on audiencelab_desired.enrichment_tracking using brin (created_at);
-- Workers look for unfinished jobs in all accounts.
create index enrichment_tracking_unfinished_idx
  on audiencelab_desired.enrichment_tracking (status, created_at) where status in ('pending', 'processing');

create trigger set_timestamps_enrichment_tracking
  before update on audiencelab_desired.enrichment_tracking
  for each row execute function public.trigger_set_timestamps();
create trigger set_server_columns_enrichment_tracking
  before insert on audiencelab_desired.enrichment_tracking
  for each row execute function audiencelab_private.set_server_columns();
create trigger keep_identity_enrichment_tracking
  before update of id, account_id, created_by on audiencelab_desired.enrichment_tracking
  for each row
  when (new.id <> old.id or new.account_id <> old.account_id or new.created_by <> old.created_by)
  execute function audiencelab_private.keep_identity();
create trigger keep_counters_enrichment_tracking
  before update of processed_records, failed_records on audiencelab_desired.enrichment_tracking
  for each row
  when (new.processed_records < old.processed_records or new.failed_records < old.failed_records)
  execute function enrichment_private.keep_counters();

create trigger enrichment_tracking_total_records_limit
  before insert or update of total_records on audiencelab_desired.enrichment_tracking
  for each row when (new.total_records < 0)
  execute function audiencelab_private.enforce_limit('total_records', 'must be 0 or more');
create trigger enrichment_tracking_processed_records_limit
  before insert or update of processed_records on audiencelab_desired.enrichment_tracking
  for each row when (new.processed_records < 0)
  execute function audiencelab_private.enforce_limit('processed_records', 'must be 0 or more');
create trigger enrichment_tracking_failed_records_limit
  before insert or update of failed_records on audiencelab_desired.enrichment_tracking
  for each row when (new.failed_records < 0)
  execute function audiencelab_private.enforce_limit('failed_records', 'must be 0 or more');
create trigger enrichment_tracking_started_at_limit
  before insert or update of started_at on audiencelab_desired.enrichment_tracking
  for each row when (new.started_at < '0001-01-01 00:00:00+00' or new.started_at >= '10000-01-01 00:00:00+00')
  execute function audiencelab_private.enforce_limit('started_at', 'must be in the years 1 to 9999');
create trigger enrichment_tracking_completed_at_limit
  before insert or update of completed_at on audiencelab_desired.enrichment_tracking
  for each row when (new.completed_at < '0001-01-01 00:00:00+00' or new.completed_at >= '10000-01-01 00:00:00+00')
  execute function audiencelab_private.enforce_limit('completed_at', 'must be in the years 1 to 9999');
-- Short values cannot exceed the limits. Checking the length first saves the function call for most rows.
create trigger enrichment_tracking_metadata_limit
  before insert or update of metadata on audiencelab_desired.enrichment_tracking
  for each row
  when (octet_length(new.metadata::text) > 200 and audiencelab_private.exceeds_json_limit(new.metadata))
  execute function audiencelab_private.enforce_limit(
    'metadata', 'must have at most 262,144 bytes as text, 100 levels, and numbers in the range of a double'
  );
create trigger enrichment_tracking_enrichment_fields_limit
  before insert or update of enrichment_fields on audiencelab_desired.enrichment_tracking
  for each row
  when (octet_length(new.enrichment_fields::text) > 255 and audiencelab_private.exceeds_texts_limit(new.enrichment_fields))
  execute function audiencelab_private.enforce_limit(
    'enrichment_fields', 'must have at most 1,000 elements of at most 255 characters'
  );

-- `= any (array(select ...))` evaluates the caller's accounts once per statement, and can use an index on account_id.
-- has_role_on_account(account_id) would run once per row.
create policy enrichment_tracking_select on audiencelab_desired.enrichment_tracking
  for select to authenticated
  using (account_id = any (array(select audiencelab_private.member_account_ids())));
create policy enrichment_tracking_insert on audiencelab_desired.enrichment_tracking
  for insert to authenticated
  with check (account_id = any (array(select audiencelab_private.member_account_ids())));
create policy enrichment_tracking_update on audiencelab_desired.enrichment_tracking
  for update to authenticated
  using (account_id = any (array(select audiencelab_private.member_account_ids())))
  with check (account_id = any (array(select audiencelab_private.member_account_ids())));
-- An API key reads and updates the jobs of its account that its scopes cover: all jobs ("*") or those with the id in a scope.
-- A scope for writing includes reading. Only a scope for writing all jobs covers new ones.
create policy enrichment_tracking_select_api_key on audiencelab_desired.enrichment_tracking
  for select to api_key
  using (
    account_id = (select public.get_api_key_account_id())
    and (
      (select api_keys_private.has_scope_on_all('enrichment', '{read,write}'))
      or id = any (array(select api_keys_private.scoped_entity_ids('enrichment', '{read,write}')))
    )
  );
create policy enrichment_tracking_insert_api_key on audiencelab_desired.enrichment_tracking
  for insert to api_key
  with check (
    account_id = (select public.get_api_key_account_id())
    and (select api_keys_private.has_scope_on_all('enrichment', '{write}'))
  );
create policy enrichment_tracking_update_api_key on audiencelab_desired.enrichment_tracking
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

select audiencelab_private.apply_table('public', 'enrichment_tracking');
comment on table public.enrichment_tracking is 'Enrichment jobs, by account. A job adds data to the records of an audience.';
comment on column public.enrichment_tracking.enrichment_fields is 'The names of the fields that the job adds.';
grant select, insert, update on public.enrichment_tracking to authenticated;
grant select, insert, update, delete on public.enrichment_tracking to service_role;
grant select, insert on public.enrichment_tracking to api_key;
-- Not the columns that identify the job, such as account_id and audience_id.
grant update (
  status, total_records, processed_records, failed_records, enrichment_fields, metadata, started_at, completed_at
) on public.enrichment_tracking to api_key;
select audiencelab_private.publish('public.enrichment_tracking');

create table audiencelab_desired.worker_progress (
  job_id uuid not null,
  worker text not null,
  processed_records integer not null,
  failed_records integer not null,
  updated_at timestamptz not null default now(),
  constraint worker_progress_pkey primary key (job_id, worker)
);
select audiencelab_private.apply_table('enrichment_private', 'worker_progress');
comment on table enrichment_private.worker_progress is
  'The running totals of each worker of a job. The counters of the job are their sums.';
-- No policies: only service_role has access, and it bypasses row level security.
grant select, insert, update, delete on enrichment_private.worker_progress to service_role;

create or replace function enrichment_private.may_write(p_job public.enrichment_tracking)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  -- In a definer function, current_user is the owner, but the setting "role" is still the role of the request.
  select case current_setting('role')
    when 'service_role' then true
    when 'authenticated' then audiencelab_private.is_member((p_job).account_id)
    when 'api_key' then api_keys_private.caller_may_write('enrichment', (p_job).account_id, (p_job).id)
    else false
  end;
$$;
comment on function enrichment_private.may_write(public.enrichment_tracking) is
  'Returns whether the caller may report progress of the job: service_role, the members of its account, and API keys with a'
  ' scope for writing it.';
select audiencelab_private.revoke_privileges('enrichment_private', '{may_write}');

select audiencelab_private.prepare_functions(
  'report_enrichment_progress(p_job_id uuid, p_worker text, p_processed integer, p_failed integer)
   returns public.enrichment_tracking',
  'reset_enrichment_progress(p_job_id uuid, p_worker text DEFAULT NULL::text) returns public.enrichment_tracking'
);

create or replace function enrichment_private.count_records(p_job_id uuid)
returns table (processed_records integer, failed_records integer)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
  -- The sums are limited to the range of the columns, so that a wrong report does not make those of other workers fail.
  select
    least(coalesce(sum(progress.processed_records), 0), 2147483647)::integer,
    least(coalesce(sum(progress.failed_records), 0), 2147483647)::integer
  from enrichment_private.worker_progress as progress
  where progress.job_id = p_job_id;
$$;
comment on function enrichment_private.count_records(uuid) is
  'Returns the sums of the totals of all workers of a job, each limited to 2147483647.';
select audiencelab_private.revoke_privileges('enrichment_private', '{count_records}');

create or replace function public.report_enrichment_progress(
  p_job_id uuid,
  p_worker text,
  p_processed integer,
  p_failed integer
)
returns public.enrichment_tracking
language plpgsql
volatile
-- Definer: callers have no access to worker_progress. The function checks write access to the job itself.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_job public.enrichment_tracking;
  v_may_write boolean;
  v_processed integer;
  v_failed integer;
begin
  if p_worker is null or btrim(p_worker) = '' or length(p_worker) > 255 then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the worker name must not be blank and must have at most 255 characters';
  end if;
  if p_processed is null or p_processed < 0 or p_failed is null or p_failed < 0 then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the numbers of processed and failed records must be 0 or more';
  end if;

  select * into v_job from public.enrichment_tracking as job where job.id = p_job_id;
  v_may_write := enrichment_private.may_write(v_job);
  if v_may_write then
    -- Locks only after the check, so that callers without access neither wait nor block others. The lock serializes reports
    -- on one job, so that each sum includes all earlier reports.
    select * into v_job from public.enrichment_tracking as job where job.id = p_job_id for no key update;
    v_may_write := found;
  end if;
  if v_may_write is not true then
    raise exception using
      errcode = 'PT404',
      message = 'the enrichment job does not exist, or you may not update it';
  end if;
  if v_job.status in ('completed', 'failed') then
    raise exception using
      errcode = 'PT409',
      message = format('the enrichment job is already %s: its progress can no longer change', v_job.status);
  end if;

  -- Totals only increase, so repeated and late reports change nothing.
  insert into enrichment_private.worker_progress as progress (job_id, worker, processed_records, failed_records)
  values (p_job_id, p_worker, p_processed, p_failed)
  on conflict (job_id, worker) do update
  set
    processed_records = greatest(progress.processed_records, excluded.processed_records),
    failed_records = greatest(progress.failed_records, excluded.failed_records),
    updated_at = now()
  where progress.processed_records < excluded.processed_records
    or progress.failed_records < excluded.failed_records;

  select counted.processed_records, counted.failed_records
  into v_processed, v_failed
  from enrichment_private.count_records(p_job_id) as counted;

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
comment on function public.report_enrichment_progress(uuid, text, integer, integer) is
$$Stores the running totals of a worker and returns the job. The counters of the job become the sums over all its workers. The
first report sets the status to processing and, if it is null, started_at to now(). Totals never decrease, so a repeated
or late report changes nothing.

Callers: service_role; authenticated, as a member of the account of the job; api_key, with a scope for writing the job.

- p_worker: a name that identifies the worker within the job; not blank, at most 255 characters.
- p_processed: the number of records that the worker has processed since the job started; 0 or more.
- p_failed: how many of them failed; 0 or more.

Errors: 22023 for an invalid argument; PT404 (HTTP 404) if the job does not exist or the caller may not update it; PT409
(HTTP 409) if the job is completed or failed.$$;
select audiencelab_private.revoke_privileges('public', '{report_enrichment_progress}');
grant execute on function public.report_enrichment_progress(uuid, text, integer, integer)
  to authenticated, service_role, api_key;

create or replace function public.reset_enrichment_progress(p_job_id uuid, p_worker text default null)
returns public.enrichment_tracking
language plpgsql
volatile
-- Definer: callers cannot execute count_records. Only service_role may call this function.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_job public.enrichment_tracking;
begin
  -- The lock serializes this with reports on the job.
  select * into v_job from public.enrichment_tracking as job where job.id = p_job_id for no key update;
  if not found then
    raise exception using errcode = 'PT404', message = 'the enrichment job does not exist';
  end if;
  delete from enrichment_private.worker_progress as progress
  where progress.job_id = p_job_id and (p_worker is null or progress.worker = p_worker);
  update public.enrichment_tracking as job
  set (processed_records, failed_records) = (
    select counted.processed_records, counted.failed_records
    from enrichment_private.count_records(p_job_id) as counted
  )
  where job.id = p_job_id
  returning * into v_job;
  return v_job;
end;
$$;
comment on function public.reset_enrichment_progress(uuid, text) is
$$Deletes the totals of a worker of a job, recalculates the counters of the job and returns it.

Callers: service_role.

- p_worker: the name of the worker. Null, the default, means all workers of the job.

Errors: PT404 (HTTP 404) if the job does not exist.$$;
select audiencelab_private.revoke_privileges('public', '{reset_enrichment_progress}');
grant execute on function public.reset_enrichment_progress(uuid, text) to service_role;

drop schema audiencelab_desired cascade;

-- Deletes the progress of jobs that no longer exist, for example because the table of jobs was dropped.
delete from enrichment_private.worker_progress as progress
where not exists (select from public.enrichment_tracking as job where job.id = progress.job_id);

-- Foreign keys come last, because adding one locks the referenced table until the transaction ends.
select audiencelab_private.apply_foreign_keys('enrichment_private.worker_progress', '{
  "worker_progress_job_id_fkey":
    "FOREIGN KEY (job_id) REFERENCES public.enrichment_tracking(id) ON DELETE CASCADE"
}');
select audiencelab_private.apply_foreign_keys('public.enrichment_tracking', '{
  "enrichment_tracking_account_id_fkey": "FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE",
  "enrichment_tracking_created_by_fkey": "FOREIGN KEY (created_by) REFERENCES auth.users(id) ON DELETE CASCADE"
}');

notify pgrst, 'reload schema';

commit;
