-- Rolls back the migration of the same name: the table of segments and its functions.
--
-- THIS DELETES DATA: all segments, including those from before the migration. Objects of earlier scripts that the migration
-- replaced, such as policies, indexes and functions, are not restored.
-- This file raises an error and changes nothing unless confirmed in the same session:
--
--   set audiencelab.confirm_rollback = 'delete all segments';
--
-- With psql: psql -v ON_ERROR_STOP=1 -c "set ..." -f this-file. In the SQL editor: paste the line above this file.
-- If `supabase db push` applied the migration, remove it from the history, so that it can be pushed again:
-- supabase migration repair --status reverted 20261122000400

begin;

set local search_path = '';
set local lock_timeout = '3s';
set local statement_timeout = '10min';
set local client_min_messages = warning;

do $confirmation$
begin
  if current_setting('audiencelab.confirm_rollback', true) is distinct from 'delete all segments' then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: this deletes all segments, including those from before the migration. To confirm, run'
        ' first: set audiencelab.confirm_rollback = ''delete all segments''';
  end if;
end;
$confirmation$;

drop function if exists public.restore_studio_segment(uuid);
drop function if exists public.delete_studio_segment(uuid);
drop function if exists public.create_studio_segment(
  uuid, text, text, text, text, jsonb, text[], jsonb, text[]
);
drop function if exists audiencelab_private.require_segment_writer(uuid, uuid);
-- This also drops its policies, its triggers and its entry in the publication.
drop table if exists public.segments;

notify pgrst, 'reload schema';

commit;

-- The confirmation applies to one run.
reset audiencelab.confirm_rollback;
