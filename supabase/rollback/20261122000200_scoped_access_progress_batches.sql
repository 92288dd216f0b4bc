-- Takes back the migration of the same name: its functions and policies, and the progress of single workers.
--
-- THIS DELETES DATA: the totals of each worker. The jobs, with their sums, stay. It refuses to run until you have said so
-- in the same session:
--
--   set audiencelab.confirm_rollback = 'delete the progress of workers';
--
-- With psql: psql -v ON_ERROR_STOP=1 -c "set ..." -f this-file. In the SQL editor: paste the line above this file.
-- Where `supabase db push` applied the migration, tell its history too, so that it can be pushed again:
-- supabase migration repair --status reverted 20261122000200

begin;

set local search_path = '';
set local lock_timeout = '3s';
set local statement_timeout = '60s';
set local client_min_messages = warning;

do $confirmation$
begin
  if current_setting('audiencelab.confirm_rollback', true) is distinct from 'delete the progress of workers' then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: this would delete the progress of single workers. If that is what you want, run'
        ' first: set audiencelab.confirm_rollback = ''delete the progress of workers''';
  end if;
end;
$confirmation$;

do $access$
begin
  if to_regclass('public.segments') is not null then
    drop policy if exists segments_select_api_key on public.segments;
  end if;
  if to_regclass('public.enrichment_tracking') is not null then
    drop policy if exists enrichment_tracking_select_api_key on public.enrichment_tracking;
    drop policy if exists enrichment_tracking_update_api_key on public.enrichment_tracking;
  end if;
  if exists (select from pg_roles where rolname = 'api_key') and to_regclass('public.segments') is not null then
    revoke all on public.segments, public.enrichment_tracking from api_key;
  end if;
end;
$access$;

drop function if exists public.log_api_key_usage_batch(jsonb);
drop function if exists public.restore_studio_segment(uuid);
drop function if exists public.delete_studio_segment(uuid);
drop function if exists public.report_enrichment_progress(uuid, text, integer, integer);
drop function if exists api_keys_private.log_usage_events(jsonb);
drop function if exists api_keys_private.has_scope_on_all(text, text[]);
drop function if exists api_keys_private.scoped_entity_ids(text, text[]);

do $schema$
begin
  if to_regnamespace('enrichment_private') is not null then
    drop function if exists enrichment_private.may_write(public.enrichment_tracking);
    drop table if exists enrichment_private.worker_progress;
    -- Not cascade: what somebody else has put there is not ours to delete.
    drop schema enrichment_private;
  end if;
end;
$schema$;

notify pgrst, 'reload schema';

commit;

-- What was said holds for this once.
reset audiencelab.confirm_rollback;
