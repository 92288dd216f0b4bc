-- Rolls back the stand-in for V3's base schema. On a database with V3's own base schema, it does nothing.
--
-- THIS DELETES DATA: all accounts and memberships.
-- This file raises an error and changes nothing unless confirmed in the same session:
--
--   set audiencelab.confirm_rollback = 'delete the stand-in accounts';

begin;

set local search_path = '';
set local lock_timeout = '3s';
set local statement_timeout = '60s';

do $rollback$
begin
  if obj_description(to_regclass('public.accounts'), 'pg_class') is null
    or obj_description(to_regclass('public.accounts'), 'pg_class') not like '%Stand-in for V3''s own table.'
  then
    raise notice 'public.accounts is not the stand-in for V3''s base schema, so there is nothing to roll back';
    return;
  end if;
  if current_setting('audiencelab.confirm_rollback', true) is distinct from 'delete the stand-in accounts' then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: this deletes all accounts and memberships. To confirm, run'
        ' first: set audiencelab.confirm_rollback = ''delete the stand-in accounts''';
  end if;

  -- One statement, because the policy of public.accounts depends on another of the tables.
  drop table public.accounts, public.accounts_memberships, public.roles;
  drop function public.has_role_on_account(uuid, varchar);
  drop function public.trigger_set_timestamps();

  alter default privileges grant execute on functions to public;
  grant usage on schema public to public, anon;
end;
$rollback$;

commit;

-- The confirmation applies to one run.
reset audiencelab.confirm_rollback;
