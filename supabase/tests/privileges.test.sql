-- Privileges on schemas, tables and functions: exactly those that the roles need.

begin;

select plan(44);

select has_role('api_key', 'role api_key exists');
select is_member_of('api_key', 'authenticator', 'authenticator can switch to api_key');
select results_eq(
  $$ select rolcanlogin, rolbypassrls, rolsuper, rolcreaterole from pg_roles where rolname = 'api_key' $$,
  $$ values (false, false, false, false) $$,
  'api_key has no attributes that grant privileges'
);

-- Schemas.
select schema_privs_are('audiencelab_private', role.name, array[]::text[], role.name || ' on audiencelab_private')
from (values ('anon'), ('authenticated'), ('api_key'), ('service_role')) as role (name);
select schema_privs_are('api_keys_private', role.name, role.privileges, role.name || ' on api_keys_private')
from (
  values
    ('anon', array[]::text[]),
    ('authenticated', '{}'),
    ('api_key', '{}'),
    ('service_role', '{USAGE}')
) as role (name, privileges);
-- Every role needs the schema of the pre-request function.
select schema_privs_are('api_keys_direct', role.name, '{USAGE}', role.name || ' on api_keys_direct')
from (values ('anon'), ('authenticated'), ('api_key'), ('service_role')) as role (name);
select schema_privs_are('enrichment_private', role.name, role.privileges, role.name || ' on enrichment_private')
from (
  values
    ('anon', array[]::text[]),
    ('authenticated', '{}'),
    ('api_key', '{}'),
    ('service_role', '{USAGE}')
) as role (name, privileges);

-- Tables: row level security and privileges.
select is(
  (select bool_and(relrowsecurity) from pg_class where oid in (
    'public.segments'::regclass,
    'public.enrichment_tracking'::regclass,
    'api_keys_private.api_keys'::regclass,
    'api_keys_private.api_key_logs'::regclass,
    'api_keys_private.failed_comparisons'::regclass,
    'api_keys_private.settings'::regclass,
    'enrichment_private.unit_progress'::regclass,
    'enrichment_private.partial_sums'::regclass
  )),
  true,
  'row level security is enabled on every table'
);
select table_privs_are(
  'public',
  granted.name,
  granted.role,
  granted.privileges,
  format('%s on public.%s', granted.role, granted.name)
)
from (
  values
    ('segments', 'anon', array[]::text[]),
    ('segments', 'authenticated', '{SELECT,INSERT,UPDATE,DELETE}'),
    ('segments', 'api_key', '{SELECT,INSERT}'),
    ('segments', 'service_role', '{SELECT,INSERT,UPDATE,DELETE}'),
    ('enrichment_tracking', 'anon', '{}'),
    ('enrichment_tracking', 'authenticated', '{SELECT,INSERT,UPDATE}'),
    ('enrichment_tracking', 'api_key', '{SELECT,INSERT}'),
    ('enrichment_tracking', 'service_role', '{SELECT,INSERT,UPDATE,DELETE}')
) as granted (name, role, privileges);
select is(
  (
    select array_agg(attname::text order by attname)
    from pg_attribute
    where attrelid = 'public.enrichment_tracking'::regclass and has_column_privilege('api_key', attrelid, attnum, 'update')
  ),
  array[
    'completed_at', 'enrichment_fields', 'failed_records', 'metadata', 'processed_records', 'started_at', 'status',
    'total_records'
  ],
  'api_key may update the progress of a job, but not the columns that identify it'
);
select is(
  (
    select array_agg(attname::text order by attname)
    from pg_attribute
    where attrelid = 'public.segments'::regclass and has_column_privilege('api_key', attrelid, attnum, 'update')
  ),
  array[
    'custom_columns', 'deleted', 'description', 'enrichment_fields', 'filters', 'name', 'source_id', 'source_type', 'tags'
  ],
  'api_key may update the contents of a segment, but not the columns that identify it'
);
select is_empty(
  $$
    select oid::regclass
    from pg_class
    cross join lateral aclexplode(relacl)
    where relnamespace in ('api_keys_private'::regnamespace, 'enrichment_private'::regnamespace)
      and grantee not in (relowner, 'service_role'::regrole)
  $$,
  'only service_role has privileges on the private tables'
);

-- Policies.
select policies_are(
  'public',
  'segments',
  array[
    'segments_select', 'segments_insert', 'segments_update', 'segments_delete', 'segments_select_api_key',
    'segments_insert_api_key', 'segments_update_api_key'
  ]
);
select policies_are(
  'public',
  'enrichment_tracking',
  array[
    'enrichment_tracking_select', 'enrichment_tracking_insert', 'enrichment_tracking_update',
    'enrichment_tracking_select_api_key', 'enrichment_tracking_insert_api_key', 'enrichment_tracking_update_api_key'
  ]
);
select policies_are('api_keys_private', 'api_keys', array[]::text[]);
select policies_are('api_keys_private', 'api_key_logs', array[]::text[]);
select policies_are('api_keys_private', 'api_key_usage_hours', array[]::text[]);
select policies_are('api_keys_private', 'api_key_usage_progress', array[]::text[]);
select policies_are('api_keys_private', 'failed_comparisons', array[]::text[]);
select policies_are('api_keys_private', 'settings', array[]::text[]);
select policies_are('enrichment_private', 'unit_progress', array[]::text[]);
select policies_are('enrichment_private', 'partial_sums', array[]::text[]);

-- The functions of the API, and the roles that may call each. Written by `make sql`.
create temporary table api (function regprocedure, callers name[]);
insert into api (function, callers)
values
  ('public.create_api_key(uuid, text, jsonb, timestamp with time zone)', '{authenticated}'),
  ('public.issue_api_key(uuid, uuid, text, jsonb, timestamp with time zone)', '{service_role}'),
  ('public.list_api_keys(uuid)', '{authenticated,service_role}'),
  ('public.revoke_api_key(uuid)', '{authenticated,service_role}'),
  ('public.revoke_api_keys_of(uuid, uuid)', '{authenticated,service_role}'),
  ('public.verify_api_key(text)', '{api_key,service_role}'),
  ('public.authenticate_api_key(text, inet)', '{service_role}'),
  ('public.log_api_key_usage(uuid, text, text, integer, text, text)', '{service_role}'),
  ('public.log_api_key_usage_batch(jsonb)', '{service_role}'),
  ('public.api_key_log(uuid, uuid, integer, timestamp with time zone, uuid)', '{authenticated,service_role}'),
  ('public.api_key_usage(uuid, timestamp with time zone, timestamp with time zone, text, uuid)', '{authenticated,service_role}'),
  ('public.purge_api_key_logs(timestamp with time zone, integer)', '{service_role}'),
  ('public.has_scope(text, text, text)', '{api_key}'),
  ('public.get_api_key_account_id()', '{api_key}'),
  ('public.get_api_key(uuid)', '{authenticated,service_role}'),
  ('public.update_api_key(uuid, jsonb)', '{authenticated,service_role}'),
  ('public.disable_api_key(uuid)', '{authenticated,service_role}'),
  ('public.enable_api_key(uuid)', '{authenticated,service_role}'),
  ('public.rotate_api_key(uuid, interval)', '{authenticated,service_role}'),
  ('public.list_api_key_events(uuid, uuid, integer, timestamp with time zone, uuid)', '{authenticated,service_role}'),
  ('public.create_studio_segment(uuid, text, text, text, text, jsonb, text[], jsonb, text[])', '{api_key,authenticated}'),
  ('public.delete_studio_segment(uuid)', '{api_key,authenticated}'),
  ('public.restore_studio_segment(uuid)', '{api_key,authenticated}'),
  ('public.report_enrichment_progress(uuid, text, integer, integer)', '{api_key,authenticated,service_role}'),
  ('public.reset_enrichment_progress(uuid, text)', '{service_role}'),
  ('public.retry_enrichment_job(uuid, boolean)', '{api_key,authenticated,service_role}'),
  ('public.fail_stale_enrichment_jobs(interval)', '{service_role}');

select set_eq(
  $$
    select
      api.function,
      array(
        select rolname
        from pg_roles
        where rolname in ('anon', 'authenticated', 'service_role', 'api_key')
          and has_function_privilege(oid, api.function, 'execute')
        order by rolname
      )
    from api
  $$,
  'select function, callers from api',
  'each function of the API is executable by exactly these roles'
);
create temporary view our_functions as
select oid::regprocedure as function, proowner, proacl, proconfig
from pg_proc
where pronamespace in (
    'audiencelab_private'::regnamespace, 'api_keys_private'::regnamespace, 'api_keys_direct'::regnamespace,
    'enrichment_private'::regnamespace
  )
  or (pronamespace, proname) in (
    select pg_proc.pronamespace, pg_proc.proname from api join pg_proc on pg_proc.oid = api.function
  );
select is_empty(
  $$
    select function
    from our_functions
    cross join lateral aclexplode(coalesce(proacl, acldefault('f', proowner)))
    where grantee = 0 and function <> 'api_keys_direct.pre_request()'::regprocedure
  $$,
  'PUBLIC may execute none of the functions but the pre-request function'
);
select is_empty(
  $$
    select function
    from our_functions
    where not coalesce('search_path=pg_catalog, pg_temp' = any (proconfig), false)
  $$,
  'every function has the search path pg_catalog, pg_temp'
);

select * from finish();

rollback;
