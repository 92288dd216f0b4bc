-- Alternatives to our functions, the baselines of the benchmarks. Each does only what its comment says.

create schema benchmark;
grant usage on schema benchmark to service_role;

create table benchmark.bcrypt_keys (
  id uuid primary key,
  account_id uuid not null,
  key_prefix text not null,
  key_hash text not null,
  is_active boolean not null default true,
  expires_at timestamptz
);
create index on benchmark.bcrypt_keys (key_prefix);

-- As in the first script: compares the bcrypt hash of each key with the same prefix.
create function benchmark.verify_by_bcrypt(p_api_key text)
returns public.verify_api_key_response
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  v_key record;
begin
  for v_key in
    select *
    from benchmark.bcrypt_keys
    where key_prefix = left(p_api_key, 7)
      and is_active
      and (expires_at is null or expires_at > now())
  loop
    if extensions.crypt(p_api_key, v_key.key_hash) = v_key.key_hash then
      return row(true, v_key.id, v_key.account_id, null::text)::public.verify_api_key_response;
    end if;
  end loop;
  return row(false, null::uuid, null::uuid, 'Invalid API key'::text)::public.verify_api_key_response;
end;
$$;

-- The minimum for such a function: one look-up by primary key.
create function benchmark.look_up(p_id uuid)
returns public.verify_api_key_response
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  v_key record;
begin
  select id, account_id into v_key from api_keys_private.api_keys where id = p_id;
  return row(true, v_key.id, v_key.account_id, null::text)::public.verify_api_key_response;
end;
$$;

-- Writes the log entry, and updates last_used_at on every call.
create function benchmark.log_and_update(
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
security definer
set search_path = ''
as $$
declare
  v_id uuid;
  v_timestamp timestamptz;
begin
  insert into api_keys_private.api_key_logs as log (api_key_id, endpoint, method, status_code, ip_address, user_agent)
  values (p_api_key_id, p_endpoint, p_method, p_status_code, p_ip_address, p_user_agent)
  returning log.id, log.timestamp into v_id, v_timestamp;

  update api_keys_private.api_keys as api_key
  set last_used_at = now()
  where api_key.id = p_api_key_id;

  return row(true, v_id, v_timestamp, null::text, null::text)::public.api_key_usage_log_response;
end;
$$;

create table benchmark.worker_progress (
  job_id uuid not null references public.enrichment_tracking (id) on delete cascade,
  worker text not null,
  processed_records integer not null,
  failed_records integer not null,
  updated_at timestamptz not null default now(),
  primary key (job_id, worker)
);

-- Adds up the totals of all workers in each report, under the lock on the job.
create function benchmark.report_and_add_up(p_job_id uuid, p_worker text, p_processed integer, p_failed integer)
returns public.enrichment_tracking
language plpgsql
volatile
security definer
set search_path = ''
as $$
declare
  v_job public.enrichment_tracking;
  v_processed integer;
  v_failed integer;
begin
  select * into v_job from public.enrichment_tracking as job where job.id = p_job_id for no key update;
  if v_job.status in ('completed', 'failed') then
    raise exception using errcode = 'PT409', message = 'the job has ended';
  end if;

  insert into benchmark.worker_progress as progress (job_id, worker, processed_records, failed_records)
  values (p_job_id, p_worker, p_processed, p_failed)
  on conflict (job_id, worker) do update
  set
    processed_records = greatest(progress.processed_records, excluded.processed_records),
    failed_records = greatest(progress.failed_records, excluded.failed_records),
    updated_at = now()
  where progress.processed_records < excluded.processed_records
    or progress.failed_records < excluded.failed_records;

  select
    least(coalesce(sum(progress.processed_records), 0), 2147483647),
    least(coalesce(sum(progress.failed_records), 0), 2147483647)
  into v_processed, v_failed
  from benchmark.worker_progress as progress
  where progress.job_id = p_job_id;

  update public.enrichment_tracking as job
  set
    status = 'processing',
    started_at = coalesce(job.started_at, now()),
    processed_records = v_processed,
    failed_records = v_failed
  where job.id = p_job_id
    and (job.status, job.processed_records, job.failed_records) is distinct from ('processing', v_processed, v_failed)
  returning * into v_job;
  return v_job;
end;
$$;

-- Totals that increase.
create sequence benchmark.totals;
grant usage on sequence benchmark.totals to service_role;

grant execute on all functions in schema benchmark to service_role;
