-- Rolls back the migration of the same name: the tables of enrichment jobs and of their progress, and their functions.
--
-- THIS DELETES DATA: all enrichment jobs, including those from before the migration, and the totals of their units.
-- Objects of earlier scripts that the migration replaced, such as policies and indexes, are not restored.
-- This file raises an error and changes nothing unless confirmed in the same session:
--
--   set audiencelab.confirm_rollback = 'delete all enrichment jobs';
--
-- With psql: psql -v ON_ERROR_STOP=1 -c "set ..." -f this-file. In the SQL editor: paste the line above this file.
-- If `supabase db push` applied the migration, remove it from the history, so that it can be pushed again:
-- supabase migration repair --status reverted 20261122000300

begin;

set local search_path = '';
set local lock_timeout = '3s';
set local statement_timeout = '10min';
set local client_min_messages = warning;

do $confirmation$
begin
  if current_setting('audiencelab.confirm_rollback', true) is distinct from 'delete all enrichment jobs' then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: this deletes all enrichment jobs, including those from before the migration. To'
        ' confirm, run first: set audiencelab.confirm_rollback = ''delete all enrichment jobs''';
  end if;
end;
$confirmation$;

drop function if exists public.fail_stale_enrichment_jobs(interval);
drop function if exists public.retry_enrichment_job(uuid, boolean);
drop function if exists public.reset_enrichment_progress(uuid, text);
drop function if exists public.report_enrichment_progress(uuid, text, integer, integer);
do $schema$
begin
  if to_regnamespace('enrichment_private') is not null then
    drop function if exists enrichment_private.may_write(public.enrichment_tracking);
    drop function if exists enrichment_private.combine_partial_sums(uuid);
    drop table if exists enrichment_private.partial_sums;
    drop table if exists enrichment_private.unit_progress;
  end if;
end;
$schema$;
-- This also drops its policies, its triggers and its entry in the publication.
drop table if exists public.enrichment_tracking;
do $schema$
begin
  if to_regnamespace('enrichment_private') is not null then
    -- After the table, because its triggers call them.
    drop function if exists enrichment_private.delete_partial_sums();
    drop function if exists enrichment_private.add_up_records();
    drop function if exists enrichment_private.count_units(uuid);
    drop function if exists enrichment_private.lock_reports(uuid);
    drop function if exists enrichment_private.require_read_committed();
    drop function if exists enrichment_private.keep_counters();
    -- Without CASCADE, so that it raises an error if the schema contains other objects.
    drop schema enrichment_private;
  end if;
end;
$schema$;

notify pgrst, 'reload schema';

commit;

-- The confirmation applies to one run.
reset audiencelab.confirm_rollback;
