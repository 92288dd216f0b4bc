-- Rolls back the migration of the same name: the usage log of API keys, its counts and its functions.
--
-- THIS DELETES DATA: all log rows, including those from before the migration, and the counts of those that were purged.
-- API keys stay valid.
-- Objects of earlier scripts that the migration replaced are not restored.
-- It raises an error and changes nothing unless confirmed in the same session:
--
--   set audiencelab.confirm_rollback = 'delete the usage of all API keys';
--
-- With psql: psql -v ON_ERROR_STOP=1 -c "set ..." -f this-file. In the SQL editor: paste the line above this file.
-- If `supabase db push` applied the migration, remove it from the history, so that it can be pushed again:
-- supabase migration repair --status reverted 20261122000250

begin;

set local search_path = '';
set local lock_timeout = '3s';
set local statement_timeout = '10min';
set local client_min_messages = warning;

do $confirmation$
begin
  if current_setting('audiencelab.confirm_rollback', true) is distinct from 'delete the usage of all API keys' then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: this deletes all log rows, including those from before the migration, and their'
        ' counts. To confirm, run first: set audiencelab.confirm_rollback = ''delete the usage of all API keys''';
  end if;
end;
$confirmation$;

do $job$
begin
  if exists (select from pg_extension where extname = 'pg_cron') then
    perform cron.unschedule(job.jobid) from cron.job as job where job.jobname = 'keep_api_key_logs';
  end if;
end;
$job$;

drop function if exists public.purge_api_key_logs(timestamptz, integer);
drop function if exists public.api_key_usage(uuid, timestamptz, timestamptz, text, uuid);
drop function if exists public.api_key_log(uuid, uuid, integer, timestamptz, uuid);
drop function if exists public.log_api_key_usage_batch(jsonb);
drop function if exists public.log_api_key_usage(uuid, text, text, integer, text, text);

drop type if exists public.api_key_usage_log_response;

do $schema$
begin
  if to_regnamespace('api_keys_private') is not null then
    drop function if exists api_keys_private.keep_api_key_logs(interval);
    drop function if exists api_keys_private.roll_up_usage();
    drop function if exists api_keys_private.require_reader(uuid, uuid);
    drop function if exists api_keys_private.log_usage_events(jsonb);
    drop function if exists api_keys_private.time_ordered_id();
    drop table if exists api_keys_private.api_key_usage_progress;
    drop table if exists api_keys_private.api_key_usage_hours;
    drop table if exists api_keys_private.api_key_logs;
    drop sequence if exists api_keys_private.api_key_log_positions;
  end if;
end;
$schema$;

notify pgrst, 'reload schema';

commit;

-- The confirmation applies to one run.
reset audiencelab.confirm_rollback;
