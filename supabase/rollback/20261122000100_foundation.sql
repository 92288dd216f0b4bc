-- Rolls back the migration of the same name: role api_key and schema audiencelab_private.
--
-- It deletes no rows. Role api_key is dropped even if it existed before the migration. It is kept, with a warning, if other
-- objects depend on it, such as policies of other tables.
-- If `supabase db push` applied the migration, remove it from the history, so that it can be pushed again:
-- supabase migration repair --status reverted 20261122000100

begin;

set local search_path = '';
set local lock_timeout = '3s';
set local statement_timeout = '10min';
set local client_min_messages = warning;

do $requirements$
begin
  if to_regprocedure('api_keys_private.scoped_entity_ids(text, text[])') is not null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'nothing was changed: roll back 20261122000200_api_keys.sql first';
  end if;
end;
$requirements$;

drop function if exists audiencelab_private.publish(regclass);
drop function if exists audiencelab_private.apply_foreign_keys(regclass, jsonb);
drop function if exists audiencelab_private.apply_table(text, text);
drop function if exists audiencelab_private.apply_parts(regclass, regclass, text[], jsonb);
drop function if exists audiencelab_private.apply_columns(regclass, regclass);
drop function if exists audiencelab_private.table_columns(regclass);
drop function if exists audiencelab_private.table_parts(regclass);
drop function if exists audiencelab_private.apply_type(text);
drop function if exists audiencelab_private.prepare_functions(text[]);
drop function if exists audiencelab_private.revoke_privileges(text, text[]);
drop function if exists audiencelab_private.require_ownership(text, text[]);
drop function if exists audiencelab_private.exceeds_texts_limit(text[]);
drop function if exists audiencelab_private.exceeds_json_limit(jsonb);
drop function if exists audiencelab_private.enforce_limit();
drop function if exists audiencelab_private.keep_identity();
drop function if exists audiencelab_private.set_server_columns();
drop function if exists audiencelab_private.is_service();
drop function if exists audiencelab_private.require_member(uuid);
drop function if exists audiencelab_private.is_member(uuid, varchar);
drop function if exists audiencelab_private.member_account_ids();
drop function if exists audiencelab_private.caller_id();
-- Without CASCADE, so that it raises an error if the schema contains other objects.
drop schema if exists audiencelab_private;

do $role$
declare
  v_dependents text;
begin
  if to_regrole('api_key') is null then
    return;
  end if;
  select string_agg(distinct dependent.description, ', ')
  into v_dependents
  from (
    select
      case
        when database.datname <> current_database() then format('objects in database %I', database.datname)
        else pg_describe_object(dependency.classid, dependency.objid, dependency.objsubid)
      end
    from pg_shdepend as dependency
    left join pg_database as database on database.oid = dependency.dbid
    where dependency.refclassid = 'pg_authid'::regclass
      and dependency.refobjid = to_regrole('api_key')
      -- Ignores the usage of schema public, which the migration granted.
      and (dependency.classid, dependency.objid, database.datname)
        is distinct from ('pg_namespace'::regclass, to_regnamespace('public'), current_database())
  ) as dependent (description);
  if v_dependents is not null then
    raise warning 'role api_key is kept, because other objects depend on it: %', v_dependents;
  else
    revoke usage on schema public from api_key;
    drop role api_key;
  end if;
end;
$role$;

notify pgrst, 'reload schema';

commit;
