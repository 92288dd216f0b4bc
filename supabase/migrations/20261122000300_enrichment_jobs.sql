-- Enrichment jobs: their counters, their status, and the progress of their units of work.
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
select audiencelab_private.require_ownership('enrichment_private', '{unit_progress,partial_sums,worker_progress}');
select audiencelab_private.require_ownership(
  'public',
  '{enrichment_tracking,report_enrichment_progress,reset_enrichment_progress,retry_enrichment_job,
    fail_stale_enrichment_jobs}'
);

create schema if not exists enrichment_private;
comment on schema enrichment_private is 'The progress of the units of enrichment jobs. Not exposed by the REST API.';
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

-- A report locks its unit, and not the job: reports on one job do not wait for each other. They share an advisory lock on
-- the job until they are committed. What must see all reports takes the lock exclusively, after it has locked the job.
-- No session that holds the advisory lock waits for the lock on the job, so the two cannot deadlock. This also holds for
-- SKIP LOCKED, which can wait after all if the row has a newer version. So it, too, comes before the advisory lock.
create or replace function enrichment_private.lock_reports(p_job_id uuid)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  perform enrichment_private.require_read_committed();
  perform pg_advisory_xact_lock(uuid_hash_extended(p_job_id, 0));
end;
$$;
comment on function enrichment_private.lock_reports(uuid) is
  'Waits for the reports on a job that are not committed yet, and holds off others until the transaction ends. The next'
  ' statement reads all of them.';

create or replace function enrichment_private.require_read_committed()
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
  -- At a higher level, all statements read the snapshot of the first one, and miss what is committed before the lock is taken.
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    raise exception using
      errcode = 'invalid_transaction_state',
      message = format(
        'the progress of enrichment jobs is counted at isolation level read committed, not %s',
        current_setting('transaction_isolation')
      );
  end if;
end;
$$;
comment on function enrichment_private.require_read_committed() is
  'Raises 25000 at an isolation level at which a statement does not read what was committed before it.';

create or replace function enrichment_private.count_units(p_job_id uuid)
returns table (processed_records integer, failed_records integer)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
  v_processed bigint;
  v_failed bigint;
begin
  select coalesce(sum(progress.processed_records), 0), coalesce(sum(progress.failed_records), 0)
  into v_processed, v_failed
  from enrichment_private.unit_progress as progress
  where progress.job_id = p_job_id;

  delete from enrichment_private.partial_sums as part where part.job_id = p_job_id;
  if v_processed > 0 or v_failed > 0 then
    insert into enrichment_private.partial_sums (job_id, session_pid, processed_records, failed_records)
    values (p_job_id, 0, v_processed, v_failed);
  end if;
  -- Limited to the range of the columns, so that a wrong report does not make others fail.
  return query select least(v_processed, 2147483647)::integer, least(v_failed, 2147483647)::integer;
end;
$$;
comment on function enrichment_private.count_units(uuid) is
  'Returns the sums of the totals of all units of a job, each limited to 2147483647, and replaces its partial sums by one'
  ' row. Requires lock_reports.';

create or replace function enrichment_private.add_up_records()
returns trigger
language plpgsql
volatile
-- Definer: callers have no access to the totals of units. It changes the updated row, and the partial sums of its job.
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform enrichment_private.lock_reports(new.id);
  select
    greatest(new.processed_records, counted.processed_records),
    greatest(new.failed_records, counted.failed_records)
  into new.processed_records, new.failed_records
  from enrichment_private.count_units(new.id) as counted;
  return new;
end;
$$;
comment on function enrichment_private.add_up_records() is
  'Trigger function, before an update that completes or fails a job: sets its counters to the sums over all units, unless'
  ' they are greater. Waits for the reports that are not committed yet; later ones raise PT409.';

create or replace function enrichment_private.delete_partial_sums()
returns trigger
language plpgsql
volatile
-- Definer: service_role deletes jobs, and cannot write partial sums.
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  delete from enrichment_private.partial_sums as part where tg_op = 'TRUNCATE' or part.job_id = old.id;
  return null;
end;
$$;
comment on function enrichment_private.delete_partial_sums() is
  'Trigger function, after a job is deleted: deletes its partial sums, or all of them after TRUNCATE.';
select audiencelab_private.revoke_privileges(
  'enrichment_private',
  '{lock_reports,require_read_committed,count_units,add_up_records,delete_partial_sums}'
);

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
create trigger add_up_records_enrichment_tracking
  before update on audiencelab_desired.enrichment_tracking
  for each row
  when (new.status <> old.status and new.status in ('completed', 'failed'))
  execute function enrichment_private.add_up_records();
-- Not a foreign key of the partial sums: its check would wait for the lock on the job.
create trigger delete_partial_sums_enrichment_tracking
  after delete on audiencelab_desired.enrichment_tracking
  for each row execute function enrichment_private.delete_partial_sums();
create trigger truncate_partial_sums_enrichment_tracking
  after truncate on audiencelab_desired.enrichment_tracking
  for each statement execute function enrichment_private.delete_partial_sums();

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

-- Earlier versions of this migration named the table and its columns after workers.
do $renaming$
begin
  if to_regclass('enrichment_private.worker_progress') is null then
    return;
  elsif to_regclass('enrichment_private.unit_progress') is null then
    alter table enrichment_private.worker_progress rename to unit_progress;
    alter table enrichment_private.unit_progress rename column worker to unit;
    alter table enrichment_private.unit_progress rename constraint worker_progress_pkey to unit_progress_pkey;
    alter table enrichment_private.unit_progress rename constraint worker_progress_job_id_fkey to unit_progress_job_id_fkey;
  end if;
end;
$renaming$;

create table audiencelab_desired.unit_progress (
  job_id uuid not null,
  unit text not null,
  processed_records integer not null,
  failed_records integer not null,
  updated_at timestamptz not null default now(),
  added_processed integer not null default 0,
  added_failed integer not null default 0,
  constraint unit_progress_pkey primary key (job_id, unit)
);
select audiencelab_private.apply_table('enrichment_private', 'unit_progress');
comment on table enrichment_private.unit_progress is
  'The running totals of each unit of work of a job. The counters of the job are their sums.';
comment on column enrichment_private.unit_progress.added_processed is
  'The difference that the last change made to processed_records.';
comment on column enrichment_private.unit_progress.added_failed is
  'The difference that the last change made to failed_records.';
-- No policies: only service_role has access, and it bypasses row level security. Totals that were written directly would not
-- be in the partial sums.
grant select on enrichment_private.unit_progress to service_role;

create table audiencelab_desired.partial_sums (
  job_id uuid not null,
  session_pid integer not null,
  processed_records bigint not null,
  failed_records bigint not null,
  constraint partial_sums_pkey primary key (job_id, session_pid)
);
select audiencelab_private.apply_table('enrichment_private', 'partial_sums');
comment on table enrichment_private.partial_sums is
  'The sums of the totals of all units of a job, in a few rows. Each session adds to a row of its own, so that reports do not'
  ' wait for each other.';
comment on column enrichment_private.partial_sums.session_pid is
  'The process of the session that adds to the row, or 0 for the sum of rows that were combined.';
grant select on enrichment_private.partial_sums to service_role;

create or replace function enrichment_private.may_write(p_job public.enrichment_tracking)
returns boolean
-- Not language sql, whose statements PostgreSQL plans in each call.
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
  -- In a definer function, current_user is the owner, but the setting "role" is still the role of the request.
  return case current_setting('role')
    when 'service_role' then true
    when 'authenticated' then audiencelab_private.is_member((p_job).account_id)
    when 'api_key' then api_keys_private.caller_may_write('enrichment', (p_job).account_id, (p_job).id)
    else false
  end;
end;
$$;
comment on function enrichment_private.may_write(public.enrichment_tracking) is
  'Returns whether the caller may report progress of the job: service_role, the members of its account, and API keys with a'
  ' scope for writing it.';
select audiencelab_private.revoke_privileges('enrichment_private', '{may_write}');

select audiencelab_private.prepare_functions(
  'report_enrichment_progress(p_job_id uuid, p_unit text, p_processed integer, p_failed integer)
   returns public.enrichment_tracking',
  'reset_enrichment_progress(p_job_id uuid, p_unit text DEFAULT NULL::text) returns public.enrichment_tracking',
  'retry_enrichment_job(p_job_id uuid, p_reset boolean DEFAULT false) returns public.enrichment_tracking',
  'fail_stale_enrichment_jobs(p_older_than interval) returns integer'
);
-- A function of earlier versions, which no other function calls.
-- squawk-ignore ban-drop-function
drop function if exists enrichment_private.count_records(uuid);

create or replace function enrichment_private.combine_partial_sums(p_job_id uuid)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
  with combined as (
    delete from enrichment_private.partial_sums as part
    where part.job_id = p_job_id
      and part.session_pid in (
        -- A session that is reporting keeps its row.
        select free.session_pid
        from enrichment_private.partial_sums as free
        where free.job_id = p_job_id and free.session_pid <> 0
        for update skip locked
      )
    returning part.processed_records, part.failed_records
  )
  insert into enrichment_private.partial_sums as part (job_id, session_pid, processed_records, failed_records)
  select p_job_id, 0, sum(combined.processed_records), sum(combined.failed_records)
  from combined
  having count(*) > 0
  on conflict (job_id, session_pid) do update
  set
    processed_records = part.processed_records + excluded.processed_records,
    failed_records = part.failed_records + excluded.failed_records;
$$;
comment on function enrichment_private.combine_partial_sums(uuid) is
  'Combines the partial sums of a job in one row, so that sessions of the past do not slow down its reports. Requires the'
  ' lock on the job.';
select audiencelab_private.revoke_privileges('enrichment_private', '{combine_partial_sums}');

create or replace function public.report_enrichment_progress(
  p_job_id uuid,
  p_unit text,
  p_processed integer,
  p_failed integer
)
returns public.enrichment_tracking
language plpgsql
volatile
-- Definer: callers have no access to unit_progress. The function checks write access to the job itself.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  -- Each update of the job is sent to all that watch it.
  c_interval constant interval := interval '200 milliseconds';
  -- Adding up more of them would slow down the reports.
  c_few_partial_sums constant integer := 2;
  -- Most are of sessions that have ended.
  c_max_partial_sums constant integer := 64;
  v_job public.enrichment_tracking;
  v_found record;
  v_updates boolean := false;
  v_added_processed integer;
  v_added_failed integer;
  v_processed integer;
  v_failed integer;
  v_parts bigint;
begin
  if p_unit is null or btrim(p_unit) = '' or length(p_unit) > 255 then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the name of the unit must not be blank and must have at most 255 characters';
  end if;
  if p_processed is null or p_processed < 0 or p_failed is null or p_failed < 0 then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the numbers of processed and failed records must be 0 or more';
  end if;
  -- Calls are avoided here: one that sets its search_path takes as long as a look-up.
  if current_setting('transaction_isolation') <> 'read committed' then
    perform enrichment_private.require_read_committed();
  end if;

  select
    job,
    exists (
      select from enrichment_private.unit_progress as progress
      where progress.job_id = job.id and progress.unit = p_unit
    ) as has_unit,
    exists (
      select from enrichment_private.partial_sums as part
      where part.job_id = job.id
      offset c_few_partial_sums
    ) as has_many_sums
  into v_found
  from public.enrichment_tracking as job
  where job.id = p_job_id;
  v_job := v_found.job;
  -- Locks only after the check, so that callers without access neither wait nor block others.
  if current_setting('role') <> 'service_role' and enrichment_private.may_write(v_job) is not true then
    raise exception using
      errcode = 'PT404',
      message = 'the enrichment job does not exist, or you may not update it';
  end if;

  -- Every lock on the job precedes the advisory lock: see lock_reports.
  if v_job.status = 'pending' then
    perform from public.enrichment_tracking as job where job.id = p_job_id for no key update;
    v_updates := true;
  -- A time in the future is from before the clock was set back.
  elsif v_job.updated_at not between clock_timestamp() - c_interval and clock_timestamp() then
    perform from public.enrichment_tracking as job
    where job.id = p_job_id and job.updated_at not between clock_timestamp() - c_interval and clock_timestamp()
    -- Reports do not queue for the lock: the session that has it is updating the job.
    for no key update skip locked;
    v_updates := found;
  end if;
  if not v_updates and not v_found.has_unit then
    -- As the check of the foreign key will.
    perform from public.enrichment_tracking as job where job.id = p_job_id for key share;
  end if;
  perform pg_advisory_xact_lock_shared(uuid_hash_extended(p_job_id, 0));

  select * into v_job from public.enrichment_tracking as job where job.id = p_job_id;
  if not found then
    raise exception using
      errcode = 'PT404',
      message = 'the enrichment job does not exist, or you may not update it';
  end if;
  if v_job.status in ('completed', 'failed') then
    raise exception using
      errcode = 'PT409',
      message = format('the enrichment job is already %s: its progress can no longer change', v_job.status);
  end if;

  -- Another first report may have updated the job while this one waited.
  v_updates := v_updates and (
    v_job.status = 'pending' or v_job.updated_at not between clock_timestamp() - c_interval and clock_timestamp()
  );

  -- Totals only increase, so repeated and late reports change nothing.
  insert into enrichment_private.unit_progress as progress (
    job_id, unit, processed_records, failed_records, added_processed, added_failed
  )
  values (p_job_id, p_unit, p_processed, p_failed, p_processed, p_failed)
  on conflict (job_id, unit) do update
  set
    processed_records = greatest(progress.processed_records, excluded.processed_records),
    failed_records = greatest(progress.failed_records, excluded.failed_records),
    added_processed = greatest(excluded.processed_records - progress.processed_records, 0),
    added_failed = greatest(excluded.failed_records - progress.failed_records, 0),
    updated_at = now()
  where progress.processed_records < excluded.processed_records
    or progress.failed_records < excluded.failed_records
  returning progress.added_processed, progress.added_failed into v_added_processed, v_added_failed;
  if v_added_processed > 0 or v_added_failed > 0 then
    insert into enrichment_private.partial_sums as part (job_id, session_pid, processed_records, failed_records)
    values (p_job_id, pg_backend_pid(), v_added_processed, v_added_failed)
    on conflict (job_id, session_pid) do update
    set
      processed_records = part.processed_records + excluded.processed_records,
      failed_records = part.failed_records + excluded.failed_records;
  end if;

  -- The sums are limited to the range of the columns, so that a wrong report does not make those of other units fail.
  if not v_updates then
    v_processed := p_processed;
    v_failed := p_failed;
    -- With many partial sums, the other units are included at the next update of the job.
    if not v_found.has_many_sums then
      select
        least(coalesce(sum(part.processed_records), 0), 2147483647)::integer,
        least(coalesce(sum(part.failed_records), 0), 2147483647)::integer
      into v_processed, v_failed
      from enrichment_private.partial_sums as part
      where part.job_id = p_job_id;
    end if;
    v_job.processed_records := greatest(v_job.processed_records, v_processed);
    v_job.failed_records := greatest(v_job.failed_records, v_failed);
    return v_job;
  end if;

  select
    least(coalesce(sum(part.processed_records), 0), 2147483647)::integer,
    least(coalesce(sum(part.failed_records), 0), 2147483647)::integer,
    count(*)
  into v_processed, v_failed, v_parts
  from enrichment_private.partial_sums as part
  where part.job_id = p_job_id;
  if v_parts > c_max_partial_sums then
    perform enrichment_private.combine_partial_sums(p_job_id);
  end if;
  update public.enrichment_tracking as job
  set
    status = 'processing',
    started_at = coalesce(job.started_at, now()),
    processed_records = greatest(job.processed_records, v_processed),
    failed_records = greatest(job.failed_records, v_failed)
  where job.id = p_job_id
  returning * into v_job;
  return v_job;
end;
$$;
comment on function public.report_enrichment_progress(uuid, text, integer, integer) is
$$Stores the running totals of a unit of work and returns the job. The counters of the job become the sums over all its units.
The first report sets the status to processing and, if it is null, started_at to now(). Totals never decrease, so a repeated
or late report changes no counter: a unit that is processed again after a crash, under the same name, counts once.

The counters, and updated_at, change with the first report after 200 milliseconds. A report within 200 milliseconds of such a
change is not in the counters until the next report. They are exact once the job is completed or failed. The counters of the
returned job are at least the totals of this report.

Callers: service_role; authenticated, as a member of the account of the job; api_key, with a scope for writing the job.

- p_unit: a name that identifies the unit of work within the job; not blank, at most 255 characters.
- p_processed: the number of records of the unit that are processed; 0 or more.
- p_failed: how many of them failed; 0 or more.

Errors: 22023 for an invalid argument; PT404 (HTTP 404) if the job does not exist or the caller may not update it; PT409
(HTTP 409) if the job is completed or failed; 25000 at an isolation level above read committed.$$;
select audiencelab_private.revoke_privileges('public', '{report_enrichment_progress}');
grant execute on function public.report_enrichment_progress(uuid, text, integer, integer)
  to authenticated, service_role, api_key;

create or replace function public.reset_enrichment_progress(p_job_id uuid, p_unit text default null)
returns public.enrichment_tracking
language plpgsql
volatile
-- Definer: callers cannot write unit_progress. Only service_role may call this function.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_job public.enrichment_tracking;
begin
  perform from public.enrichment_tracking as job where job.id = p_job_id for no key update;
  if not found then
    raise exception using errcode = 'PT404', message = 'the enrichment job does not exist';
  end if;
  perform enrichment_private.lock_reports(p_job_id);
  delete from enrichment_private.unit_progress as progress
  where progress.job_id = p_job_id and (p_unit is null or progress.unit = p_unit);
  update public.enrichment_tracking as job
  set (processed_records, failed_records) = (
    select counted.processed_records, counted.failed_records
    from enrichment_private.count_units(p_job_id) as counted
  )
  where job.id = p_job_id
  returning * into v_job;
  return v_job;
end;
$$;
comment on function public.reset_enrichment_progress(uuid, text) is
$$Deletes the totals of a unit of a job, recalculates the counters of the job and returns it.

Callers: service_role.

- p_unit: the name of the unit. Null, the default, means all units of the job.

Errors: PT404 (HTTP 404) if the job does not exist; 25000 at an isolation level above read committed.$$;
select audiencelab_private.revoke_privileges('public', '{reset_enrichment_progress}');
grant execute on function public.reset_enrichment_progress(uuid, text) to service_role;

create or replace function public.retry_enrichment_job(p_job_id uuid, p_reset boolean default false)
returns public.enrichment_tracking
language plpgsql
volatile
-- Definer: callers cannot write unit_progress. The function checks write access to the job itself.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_job public.enrichment_tracking;
  v_may_write boolean;
begin
  select * into v_job from public.enrichment_tracking as job where job.id = p_job_id;
  v_may_write := enrichment_private.may_write(v_job);
  if v_may_write then
    -- Locks only after the check, so that callers without access neither wait nor block others.
    select * into v_job from public.enrichment_tracking as job where job.id = p_job_id for no key update;
    v_may_write := found;
  end if;
  if v_may_write is not true then
    raise exception using
      errcode = 'PT404',
      message = 'the enrichment job does not exist, or you may not update it';
  end if;
  if v_job.status <> 'failed' then
    raise exception using
      errcode = 'PT409',
      message = format('the enrichment job is %s: only a failed job can be retried', v_job.status);
  end if;

  if p_reset then
    perform enrichment_private.lock_reports(p_job_id);
    delete from enrichment_private.unit_progress as progress where progress.job_id = p_job_id;
    perform enrichment_private.count_units(p_job_id);
    v_job.processed_records := 0;
    v_job.failed_records := 0;
    v_job.started_at := null;
  end if;
  update public.enrichment_tracking as job
  set
    status = 'pending',
    processed_records = v_job.processed_records,
    failed_records = v_job.failed_records,
    started_at = v_job.started_at,
    completed_at = null,
    metadata = case when jsonb_typeof(job.metadata) = 'object' then job.metadata - 'error' else job.metadata end
  where job.id = p_job_id
  returning * into v_job;
  return v_job;
end;
$$;
comment on function public.retry_enrichment_job(uuid, boolean) is
$$Sets a failed job to pending again and returns it. completed_at becomes null, and the key error is removed from metadata.

Callers: service_role; authenticated, as a member of the account of the job; api_key, with a scope for writing the job.

- p_reset: whether the job starts from the beginning: the totals of its units are deleted, its counters become 0 and
  started_at becomes null. By default all of these are kept, so that finished units need not be processed again.

Errors: PT404 (HTTP 404) if the job does not exist or the caller may not update it; PT409 (HTTP 409) if the job is not
failed; with p_reset, 25000 at an isolation level above read committed.$$;
select audiencelab_private.revoke_privileges('public', '{retry_enrichment_job}');
grant execute on function public.retry_enrichment_job(uuid, boolean) to authenticated, service_role, api_key;

create or replace function public.fail_stale_enrichment_jobs(p_older_than interval)
returns integer
language plpgsql
volatile
-- Definer: the owner may execute the functions of the triggers. Only service_role may call this function.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  -- Each job takes an entry of PostgreSQL's table of locks.
  c_max_jobs constant integer := 1000;
  v_job_id uuid;
  v_count integer := 0;
begin
  -- Shorter than a minute, it would fail jobs whose worker sends a report every 30 seconds and was delayed once.
  if (p_older_than between interval '1 minute' and interval '365 days') is not true then
    raise exception using
      errcode = 'invalid_parameter_value',
      message = 'the time without a report must be between 1 minute and 365 days';
  end if;

  for v_job_id in
    select job.id
    from public.enrichment_tracking as job
    where job.status = 'processing' and job.updated_at < now() - p_older_than
    order by job.updated_at
    limit c_max_jobs
  loop
    -- Without waiting: a lock on the job is a sign of life, and so is a report that is not committed yet.
    perform from public.enrichment_tracking as job
    where job.id = v_job_id and job.status = 'processing' and job.updated_at < now() - p_older_than
    for no key update skip locked;
    continue when not found or not pg_try_advisory_xact_lock(uuid_hash_extended(v_job_id, 0));
    begin
      update public.enrichment_tracking as job
      set
        status = 'failed',
        completed_at = now(),
        metadata = case when jsonb_typeof(job.metadata) = 'object' then job.metadata else '{}' end
          || jsonb_build_object('error', format('no report for %s', p_older_than))
      where job.id = v_job_id;
    exception
      -- There is no room for the reason in the metadata. One account must not stop the function for all.
      when check_violation then
        update public.enrichment_tracking as job
        set status = 'failed', completed_at = now()
        where job.id = v_job_id;
    end;
    v_count := v_count + 1;
  end loop;
  return v_count;
end;
$$;
comment on function public.fail_stale_enrichment_jobs(interval) is
$$Sets processing jobs to failed that were not updated for so long, at most 1,000 of them, those that are silent longest first.
Returns their number. The key error of their metadata is the reason, if the metadata has room for it. Jobs that are being
reported on or updated are skipped.

Callers: service_role.

- p_older_than: the time without a report, between 1 minute and 365 days.

Errors: 22023 if p_older_than is out of range; 25000 at an isolation level above read committed.$$;
select audiencelab_private.revoke_privileges('public', '{fail_stale_enrichment_jobs}');
grant execute on function public.fail_stale_enrichment_jobs(interval) to service_role;

drop schema audiencelab_desired cascade;

-- Deletes the progress of jobs that no longer exist, for example because the table of jobs was dropped.
delete from enrichment_private.unit_progress as progress
where not exists (select from public.enrichment_tracking as job where job.id = progress.job_id);
delete from enrichment_private.partial_sums as part
where not exists (select from public.enrichment_tracking as job where job.id = part.job_id);

-- If an earlier version of this migration was applied after this one, there are two tables.
do $merging$
begin
  if to_regclass('enrichment_private.worker_progress') is null then
    return;
  end if;
  insert into enrichment_private.unit_progress as progress (job_id, unit, processed_records, failed_records, updated_at)
  select earlier.job_id, earlier.worker, earlier.processed_records, earlier.failed_records, earlier.updated_at
  from enrichment_private.worker_progress as earlier
  where exists (select from public.enrichment_tracking as job where job.id = earlier.job_id)
  on conflict (job_id, unit) do update
  set
    processed_records = greatest(progress.processed_records, excluded.processed_records),
    failed_records = greatest(progress.failed_records, excluded.failed_records);
  delete from enrichment_private.partial_sums;
  drop table enrichment_private.worker_progress;
end;
$merging$;

-- Totals from before the partial sums.
insert into enrichment_private.partial_sums (job_id, session_pid, processed_records, failed_records)
select progress.job_id, 0, sum(progress.processed_records), sum(progress.failed_records)
from enrichment_private.unit_progress as progress
where not exists (select from enrichment_private.partial_sums as part where part.job_id = progress.job_id)
group by progress.job_id
having sum(progress.processed_records) > 0 or sum(progress.failed_records) > 0
on conflict do nothing;

-- Foreign keys come last, because adding one locks the referenced table until the transaction ends.
select audiencelab_private.apply_foreign_keys('enrichment_private.unit_progress', '{
  "unit_progress_job_id_fkey":
    "FOREIGN KEY (job_id) REFERENCES public.enrichment_tracking(id) ON DELETE CASCADE"
}');
select audiencelab_private.apply_foreign_keys('public.enrichment_tracking', '{
  "enrichment_tracking_account_id_fkey": "FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE",
  "enrichment_tracking_created_by_fkey": "FOREIGN KEY (created_by) REFERENCES auth.users(id) ON DELETE CASCADE"
}');

notify pgrst, 'reload schema';

commit;
