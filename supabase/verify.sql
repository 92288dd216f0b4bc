-- Compares a database with the schema that the migrations create. Returns one row for each object, with ok or the
-- differences, and raises an error if there is any difference.
--
-- It changes nothing. Paste it into the SQL editor, or run it with psql: psql -v ON_ERROR_STOP=1 -f supabase/verify.sql. The
-- exit status of psql is 3 if there is any difference.

create or replace function pg_temp.audiencelab_verification()
returns table (kind text, object text, status text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $verification$
  -- What the migrations create in schema public. Written by `make sql`.
  with public_names (kind, name) as (
    values
      ('table', 'enrichment_tracking'),
      ('table', 'segments'),
      ('type', 'create_api_key_response'),
      ('type', 'verify_api_key_response'),
      ('type', 'api_key_usage_log_response'),
      ('type', 'authenticate_api_key_response'),
      ('type', 'api_key_response'),
      ('function', 'create_api_key'),
      ('function', 'issue_api_key'),
      ('function', 'list_api_keys'),
      ('function', 'revoke_api_key'),
      ('function', 'revoke_api_keys_of'),
      ('function', 'verify_api_key'),
      ('function', 'authenticate_api_key'),
      ('function', 'log_api_key_usage'),
      ('function', 'log_api_key_usage_batch'),
      ('function', 'api_key_log'),
      ('function', 'api_key_usage'),
      ('function', 'purge_api_key_logs'),
      ('function', 'has_scope'),
      ('function', 'get_api_key_account_id'),
      ('function', 'get_api_key'),
      ('function', 'update_api_key'),
      ('function', 'disable_api_key'),
      ('function', 'enable_api_key'),
      ('function', 'rotate_api_key'),
      ('function', 'list_api_key_events'),
      ('function', 'create_studio_segment'),
      ('function', 'delete_studio_segment'),
      ('function', 'restore_studio_segment'),
      ('function', 'report_enrichment_progress'),
      ('function', 'reset_enrichment_progress'),
      ('function', 'retry_enrichment_job'),
      ('function', 'fail_stale_enrichment_jobs')
  ),
  our_schemas as (
    select oid, nspname, nspowner, nspacl
    from pg_namespace
    where nspname in ('audiencelab_private', 'api_keys_private', 'api_keys_direct', 'enrichment_private')
  ),
  our_relations as (
    select class.oid, class.oid::regclass::text as name, class.relkind, class.relrowsecurity, class.relforcerowsecurity,
      class.relreplident, class.reloptions, class.relowner, class.relacl
    from pg_class as class
    join pg_namespace as namespace on namespace.oid = class.relnamespace
    where class.relkind in ('r', 'p', 'v', 'm', 'f')
      and (class.relnamespace in (select oid from our_schemas)
           or (namespace.nspname = 'public' and class.relname in (select name from public_names where kind = 'table')))
  ),
  our_functions as (
    select function.*, function.oid::regprocedure::text as name
    from pg_proc as function
    where function.pronamespace in (select oid from our_schemas)
       or (
         function.pronamespace = 'public'::regnamespace
         and function.proname in (select name from public_names where kind = 'function')
       )
  ),
  fact (kind, object, fact) as (
    select 'role', role.rolname::text, fact
    from pg_roles as role
    cross join lateral unnest(array[
      case when role.rolcanlogin then 'can log in' else 'cannot log in' end,
      case when role.rolinherit then 'inherits' end,
      case when role.rolbypassrls or role.rolsuper then 'bypasses row level security' else 'subject to row level security' end,
      case
        when role.rolcreaterole or role.rolcreatedb or role.rolreplication
          then 'can create roles or databases, or replicate'
      end,
      case when pg_has_role('authenticator', role.oid, 'member') then 'granted to authenticator' end,
      case when has_schema_privilege(role.oid, 'public', 'usage') then 'has usage of schema public' end
    ]) as fact
    where role.rolname = 'api_key'

    union all
    select 'role', 'api_key',
      case when granted.member = api_key.oid
        then 'member of ' || pg_get_userbyid(granted.roleid)
        else 'has the member ' || pg_get_userbyid(granted.member)
      end
    from pg_roles as api_key
    join pg_auth_members as granted on api_key.oid in (granted.member, granted.roleid)
    join pg_roles as member on member.oid = granted.member
    where api_key.rolname = 'api_key'
      -- A member that may create roles can be the creator of the role.
      and not (member.rolsuper or member.rolcreaterole or member.rolname = 'authenticator')

    union all
    -- Row level security and grants do not restrict owners, so the roles of the REST API must not own anything.
    select 'owner', owned.name, 'owned by ' || owned.owner
    from (
      select name, pg_get_userbyid(relowner) from our_relations
      union all
      select name, pg_get_userbyid(proowner) from our_functions
      union all
      select 'schema ' || nspname, pg_get_userbyid(nspowner) from our_schemas
    ) as owned (name, owner)
    where owned.owner in ('anon', 'authenticated', 'service_role', 'authenticator', 'api_key')

    union all
    select 'view', name, 'as ' || btrim(regexp_replace(regexp_replace(pg_get_viewdef(oid), '\mapi_keys\.', '', 'g'), '\s+', ' ', 'g'))
    from our_relations
    where relkind = 'v'

    union all
    select 'rule', format('%s on %s', rule.rulename, our_relations.name), pg_get_ruledef(rule.oid)
    from our_relations
    join pg_rewrite as rule on rule.ev_class = our_relations.oid and rule.rulename <> '_RETURN'

    union all
    select 'view', reader.oid::regclass::text, 'reads ' || our_relations.name
    from our_relations
    join pg_depend as dependency
      on dependency.refclassid = 'pg_class'::regclass and dependency.refobjid = our_relations.oid
      and dependency.classid = 'pg_rewrite'::regclass
    join pg_rewrite as rule on rule.oid = dependency.objid
    join pg_class as reader on reader.oid = rule.ev_class and reader.relnamespace not in (select oid from our_schemas)
    where our_relations.name not like 'public.%'

    union all
    select 'table', name, fact
    from our_relations
    cross join lateral unnest(
      array[
        case relkind when 'r' then 'table' when 'v' then 'view' else 'another kind of relation' end,
        case when relrowsecurity then 'row level security enabled' when relkind = 'r' then 'row level security disabled' end,
        case when relforcerowsecurity then 'row level security forced' end,
        case when 'security_invoker=true' = any (reloptions) then 'security invoker' end,
        case when relkind = 'r' and relreplident not in ('d', 'f') then 'replica identity does not allow updates' end
      ]
    ) as fact

    union all
    select 'columns', our_relations.name,
      concat_ws(
        ' ',
        attribute.attname,
        format_type(attribute.atttypid, attribute.atttypmod),
        case when attribute.attnotnull then 'not null' end,
        'default ' || pg_get_expr(col_default.adbin, col_default.adrelid)
      )
    from our_relations
    join pg_attribute as attribute
      on attribute.attrelid = our_relations.oid and attribute.attnum > 0 and not attribute.attisdropped
    left join pg_attrdef as col_default
      on col_default.adrelid = attribute.attrelid and col_default.adnum = attribute.attnum

    union all
    select 'constraint', format('%s on %s', held.conname, our_relations.name), pg_get_constraintdef(held.oid)
    from our_relations
    join pg_constraint as held on held.conrelid = our_relations.oid and held.contype in ('c', 'f', 'p', 'u', 'x')

    union all
    select 'index', index.indexrelid::regclass::text, fact
    from our_relations
    join pg_index as index on index.indrelid = our_relations.oid
    cross join lateral unnest(array[
      pg_get_indexdef(index.indexrelid),
      case when not (index.indisvalid and index.indisready) then 'invalid' end
    ]) as fact

    union all
    select 'policy', format('%s on %s', policy.polname, our_relations.name), fact
    from our_relations
    join pg_policy as policy on policy.polrelid = our_relations.oid
    cross join lateral unnest(array[
      case when policy.polpermissive then 'permissive' else 'restrictive' end,
      'for ' || case policy.polcmd
        when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all'
      end,
      'to ' || (
        select string_agg(coalesce(role.rolname, 'public'), ', ' order by role.rolname)
        from unnest(policy.polroles) as grantee
        left join pg_roles as role on role.oid = grantee
      ),
      'using ' || pg_get_expr(policy.polqual, policy.polrelid),
      'with check ' || pg_get_expr(policy.polwithcheck, policy.polrelid)
    ]) as fact

    union all
    select 'trigger', format('%s on %s', trigger.tgname, our_relations.name), fact
    from our_relations
    join pg_trigger as trigger on trigger.tgrelid = our_relations.oid and not trigger.tgisinternal
    cross join lateral unnest(array[
      pg_get_triggerdef(trigger.oid),
      case trigger.tgenabled when 'O' then 'enabled' else 'not always enabled' end
    ]) as fact

    union all
    select 'type', type.oid::regtype::text,
      format('%s %s', attribute.attname, format_type(attribute.atttypid, attribute.atttypmod))
    from pg_type as type
    join pg_attribute as attribute
      on attribute.attrelid = type.typrelid and attribute.attnum > 0 and not attribute.attisdropped
    where type.typnamespace = 'public'::regnamespace
      and type.typname in (select name from public_names where kind = 'type')

    union all
    select 'function', our_functions.name, fact
    from our_functions
    join pg_language as language on language.oid = our_functions.prolang
    cross join lateral unnest(
      array[
        'arguments ' || pg_get_function_arguments(our_functions.oid),
        'returns ' || pg_get_function_result(our_functions.oid),
        'language ' || language.lanname,
        case our_functions.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end,
        case when our_functions.prosecdef then 'security definer' else 'security invoker' end,
        case when our_functions.proisstrict then 'null on null input' end,
        -- Text that was pasted on Windows contains carriage returns.
        'body ' || md5(replace(our_functions.prosrc, E'\r', ''))
      ] || our_functions.proconfig
    ) as fact

    union all
    select 'publication', 'supabase_realtime of ' || published.relid::regclass, fact
    from pg_publication as publication
    cross join lateral pg_get_publication_tables(pubname::text) as published
    left join pg_publication_rel as entry on entry.prpubid = publication.oid and entry.prrelid = published.relid
    cross join lateral unnest(array[
      'published',
      case when entry.prqual is not null then 'only some rows' end,
      case when entry.prattrs is not null then 'only some columns' end,
      case when not (publication.pubinsert and publication.pubupdate and publication.pubdelete) then 'only some operations' end
    ]) as fact
    where pubname = 'supabase_realtime' and published.relid in (select oid from our_relations)

    union all
    select
      'privileges',
      privileged.name,
      format(
        '%s to %s%s',
        lower(entry.privilege_type) || privileged.part,
        case entry.grantee when 0 then 'public' else pg_get_userbyid(entry.grantee) end,
        case when entry.is_grantable then ' with grant option' end
      )
    from (
      select name, '' as part, relowner as owner, relacl as acl
      from our_relations
      union all
      select our_relations.name, format(' (%s)', attribute.attname), our_relations.relowner, attribute.attacl
      from our_relations
      join pg_attribute as attribute on attribute.attrelid = our_relations.oid
      union all
      select name, '', proowner, coalesce(proacl, acldefault('f', proowner))
      from our_functions
      union all
      select 'schema ' || nspname, '', nspowner, nspacl
      from our_schemas
    ) as privileged
    cross join lateral aclexplode(privileged.acl) as entry
    where entry.grantee <> privileged.owner
  ),
  actual (kind, object, facts) as (
    select fact.kind, fact.object, array_agg(fact.fact order by fact.fact collate "C")
    from fact
    where fact.fact is not null
    group by fact.kind, fact.object
  ),
  -- Written by `make sql` from a database to which the migrations were applied.
  expected (kind, object, facts) as (
    values
      ('columns', 'api_keys_private.api_key_events', array[
        'account_id uuid not null',
        'actor_id uuid',
        'actor_type text not null',
        'api_key_id uuid not null',
        'changes jsonb not null',
        'created_at timestamp with time zone not null default clock_timestamp()',
        'event text not null',
        'id uuid not null default gen_random_uuid()'
      ]),
      ('columns', 'api_keys_private.api_key_logs', array[
        'api_key_id uuid',
        'endpoint text not null',
        'id uuid not null default gen_random_uuid()',
        'ip_address text',
        'method text not null',
        'position bigint not null default 
CASE
    WHEN (pg_current_xact_id() IS NOT NULL) THEN nextval(''api_keys_private.api_key_log_positions''::regclass)
    ELSE NULL::bigint
END',
        'status_code integer',
        'timestamp timestamp with time zone not null default now()',
        'user_agent text'
      ]),
      ('columns', 'api_keys_private.api_key_usage_hours', array[
        'api_key_id uuid not null',
        'errors bigint not null',
        'hour timestamp with time zone not null',
        'last_used_at timestamp with time zone not null',
        'requests bigint not null'
      ]),
      ('columns', 'api_keys_private.api_key_usage_progress', array[
        'id boolean not null default true',
        'next_position bigint not null default 0',
        'next_xact_id xid8 not null default ''0''::xid8',
        'rolled_up_to bigint not null default ''-1''::integer'
      ]),
      ('columns', 'api_keys_private.api_keys', array[
        'account_id uuid not null',
        'allowed_ips cidr[]',
        'created_at timestamp with time zone not null default now()',
        'created_by uuid not null',
        'disabled_at timestamp with time zone',
        'expires_at timestamp with time zone',
        'id uuid not null default gen_random_uuid()',
        'is_active boolean not null default true',
        'key_hash text not null',
        'key_prefix character varying(7) not null',
        'last_used_at timestamp with time zone',
        'metadata jsonb not null default ''{}''::jsonb',
        'name text not null',
        'scopes jsonb not null default ''[]''::jsonb',
        'successor_id uuid'
      ]),
      ('columns', 'api_keys_private.bcrypt_api_keys', array[
        'account_id uuid',
        'created_at timestamp with time zone',
        'created_by uuid',
        'expires_at timestamp with time zone',
        'id uuid',
        'key_prefix character varying(7)',
        'last_used_at timestamp with time zone',
        'name text'
      ]),
      ('columns', 'api_keys_private.failed_comparisons', array[
        'comparisons integer not null',
        'key_prefix character varying(7) not null',
        'period bigint not null',
        'slot bigint'
      ]),
      ('columns', 'api_keys_private.live_api_keys', array[
        'account_id uuid',
        'allowed_ips cidr[]',
        'id uuid',
        'key_hash text',
        'key_prefix character varying(7)',
        'scopes jsonb'
      ]),
      ('columns', 'api_keys_private.settings', array[
        'id boolean not null default true',
        'manage_keys_role character varying(50)'
      ]),
      ('columns', 'enrichment_private.partial_sums', array[
        'failed_records bigint not null',
        'job_id uuid not null',
        'processed_records bigint not null',
        'session_pid integer not null'
      ]),
      ('columns', 'enrichment_private.unit_progress', array[
        'added_failed integer not null default 0',
        'added_processed integer not null default 0',
        'failed_records integer not null',
        'job_id uuid not null',
        'processed_records integer not null',
        'unit text not null',
        'updated_at timestamp with time zone not null default now()'
      ]),
      ('columns', 'public.enrichment_tracking', array[
        'account_id uuid not null',
        'audience_id uuid not null',
        'completed_at timestamp with time zone',
        'created_at timestamp with time zone not null default now()',
        'created_by uuid not null',
        'enrichment_fields text[] not null default ''{}''::text[]',
        'enrichment_type text not null',
        'failed_records integer not null default 0',
        'id uuid not null default gen_random_uuid()',
        'metadata jsonb not null default ''{}''::jsonb',
        'processed_records integer not null default 0',
        'started_at timestamp with time zone',
        'status text not null default ''pending''::text',
        'total_records integer not null default 0',
        'updated_at timestamp with time zone not null default now()'
      ]),
      ('columns', 'public.segments', array[
        'account_id uuid not null',
        'created_at timestamp with time zone not null default now()',
        'created_by uuid not null',
        'custom_columns jsonb not null default ''[]''::jsonb',
        'deleted boolean not null default false',
        'description text',
        'enrichment_fields text[] not null default ''{}''::text[]',
        'filters jsonb not null default ''[]''::jsonb',
        'id uuid not null default gen_random_uuid()',
        'name text not null',
        'source_id text not null',
        'source_type text not null',
        'tags text[] not null default ''{}''::text[]',
        'updated_at timestamp with time zone not null default now()'
      ]),
      ('constraint', 'api_key_events_actor_type_check on api_keys_private.api_key_events', array[
        'CHECK ((actor_type = ANY (ARRAY[''user''::text, ''api_key''::text, ''service''::text])))'
      ]),
      ('constraint', 'api_key_events_event_check on api_keys_private.api_key_events', array[
        'CHECK ((event = ANY (ARRAY[''create''::text, ''update''::text, ''disable''::text, ''enable''::text, ''rotate''::text, ''revoke''::text])))'
      ]),
      ('constraint', 'api_key_events_pkey on api_keys_private.api_key_events', array[
        'PRIMARY KEY (id)'
      ]),
      ('constraint', 'api_key_logs_api_key_id_check on api_keys_private.api_key_logs', array[
        'CHECK ((api_key_id IS NOT NULL)) NOT VALID'
      ]),
      ('constraint', 'api_key_logs_api_key_id_fkey on api_keys_private.api_key_logs', array[
        'FOREIGN KEY (api_key_id) REFERENCES api_keys_private.api_keys(id) ON DELETE CASCADE'
      ]),
      ('constraint', 'api_key_logs_pkey on api_keys_private.api_key_logs', array[
        'PRIMARY KEY (id)'
      ]),
      ('constraint', 'api_key_logs_timestamp_check on api_keys_private.api_key_logs', array[
        'CHECK ((("timestamp" >= ''0001-01-01 00:00:00+00''::timestamp with time zone) AND ("timestamp" < ''10000-01-01 00:00:00+00''::timestamp with time zone))) NOT VALID'
      ]),
      ('constraint', 'api_key_usage_hours_api_key_id_fkey on api_keys_private.api_key_usage_hours', array[
        'FOREIGN KEY (api_key_id) REFERENCES api_keys_private.api_keys(id) ON DELETE CASCADE'
      ]),
      ('constraint', 'api_key_usage_hours_pkey on api_keys_private.api_key_usage_hours', array[
        'PRIMARY KEY (api_key_id, hour)'
      ]),
      ('constraint', 'api_key_usage_progress_id_check on api_keys_private.api_key_usage_progress', array[
        'CHECK (id)'
      ]),
      ('constraint', 'api_key_usage_progress_pkey on api_keys_private.api_key_usage_progress', array[
        'PRIMARY KEY (id)'
      ]),
      ('constraint', 'api_keys_account_id_fkey on api_keys_private.api_keys', array[
        'FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE NOT VALID'
      ]),
      ('constraint', 'api_keys_pkey on api_keys_private.api_keys', array[
        'PRIMARY KEY (id)'
      ]),
      ('constraint', 'enrichment_tracking_account_id_fkey on public.enrichment_tracking', array[
        'FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE'
      ]),
      ('constraint', 'enrichment_tracking_created_by_fkey on public.enrichment_tracking', array[
        'FOREIGN KEY (created_by) REFERENCES auth.users(id) ON DELETE CASCADE'
      ]),
      ('constraint', 'enrichment_tracking_enrichment_type_check on public.enrichment_tracking', array[
        'CHECK ((enrichment_type = ANY (ARRAY[''email''::text, ''phone''::text, ''company''::text, ''social''::text, ''custom''::text])))'
      ]),
      ('constraint', 'enrichment_tracking_pkey on public.enrichment_tracking', array[
        'PRIMARY KEY (id)'
      ]),
      ('constraint', 'enrichment_tracking_status_check on public.enrichment_tracking', array[
        'CHECK ((status = ANY (ARRAY[''pending''::text, ''processing''::text, ''completed''::text, ''failed''::text])))'
      ]),
      ('constraint', 'failed_comparisons_pkey on api_keys_private.failed_comparisons', array[
        'PRIMARY KEY (key_prefix)'
      ]),
      ('constraint', 'partial_sums_pkey on enrichment_private.partial_sums', array[
        'PRIMARY KEY (job_id, session_pid)'
      ]),
      ('constraint', 'segments_account_id_fkey on public.segments', array[
        'FOREIGN KEY (account_id) REFERENCES public.accounts(id) ON DELETE CASCADE'
      ]),
      ('constraint', 'segments_created_by_fkey on public.segments', array[
        'FOREIGN KEY (created_by) REFERENCES auth.users(id) ON DELETE CASCADE'
      ]),
      ('constraint', 'segments_pkey on public.segments', array[
        'PRIMARY KEY (id)'
      ]),
      ('constraint', 'segments_source_type_check on public.segments', array[
        'CHECK ((source_type = ANY (ARRAY[''audience''::text, ''webhook_upload''::text, ''csv_upload''::text])))'
      ]),
      ('constraint', 'settings_id_check on api_keys_private.settings', array[
        'CHECK (id)'
      ]),
      ('constraint', 'settings_manage_keys_role_fkey on api_keys_private.settings', array[
        'FOREIGN KEY (manage_keys_role) REFERENCES public.roles(name) ON UPDATE CASCADE'
      ]),
      ('constraint', 'settings_pkey on api_keys_private.settings', array[
        'PRIMARY KEY (id)'
      ]),
      ('constraint', 'unit_progress_job_id_fkey on enrichment_private.unit_progress', array[
        'FOREIGN KEY (job_id) REFERENCES public.enrichment_tracking(id) ON DELETE CASCADE'
      ]),
      ('constraint', 'unit_progress_pkey on enrichment_private.unit_progress', array[
        'PRIMARY KEY (job_id, unit)'
      ]),
      ('function', 'api_keys_direct.configured_function()', array[
        'arguments ',
        'body 6a86c8e6eb4a7332b20a9e6672716909',
        'language sql',
        'returns text',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'stable'
      ]),
      ('function', 'api_keys_direct.disable()', array[
        'arguments ',
        'body a023ae05c28904ebdad1141c2442b348',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'api_keys_direct.enable()', array[
        'arguments ',
        'body d8357edea605946892216e3fe946a8b9',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'api_keys_direct.find_api_key(text)', array[
        'arguments p_api_key text',
        'body edbe32db2c2ca0a3bf7b6a3f55a53d45',
        'language plpgsql',
        'returns uuid',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'stable'
      ]),
      ('function', 'api_keys_direct.pre_request()', array[
        'arguments ',
        'body 14322286de9a61cb0e08c8cb8beab05b',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'api_keys_private.add_api_key(uuid,uuid,text,jsonb,timestamp with time zone)', array[
        'arguments p_account_id uuid, p_created_by uuid, p_name text, p_scopes jsonb, p_expires_at timestamp with time zone',
        'body 1475e5677bb636b3db255bf7f9fad97a',
        'language plpgsql',
        'returns public.create_api_key_response',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'api_keys_private.admit_comparison(text,text)', array[
        'arguments p_key_prefix text, p_key_hash text',
        'body 9bc3d296f2a978ddf6180db81c54ab76',
        'language plpgsql',
        'returns bigint',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'api_keys_private.base62(integer)', array[
        'arguments p_digit integer',
        'body f7bdc5fb25eb5f196abfa1a6d5eb0804',
        'immutable',
        'language sql',
        'returns text',
        'search_path=pg_catalog, pg_temp',
        'security invoker'
      ]),
      ('function', 'api_keys_private.caller_creator_id()', array[
        'arguments ',
        'body da356c021f2f06aff04b83f7d76a0736',
        'language plpgsql',
        'returns uuid',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'stable'
      ]),
      ('function', 'api_keys_private.caller_may_write(text,uuid,uuid)', array[
        'arguments p_entity_type text, p_account_id uuid, p_id uuid DEFAULT NULL::uuid',
        'body 1c3a06217621b2480784fb8715f4c08e',
        'language sql',
        'returns boolean',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'stable'
      ]),
      ('function', 'api_keys_private.count_failed_comparisons(text,integer,bigint)', array[
        'arguments p_key_prefix text, p_comparisons integer, p_slot bigint',
        'body 80a76f963abd61c9e7749d2695b196ae',
        'language sql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'api_keys_private.crc32(bytea)', array[
        'arguments p_bytes bytea',
        'body 4698d641a427153389f45672e3ad8a43',
        'immutable',
        'language plpgsql',
        'returns bigint',
        'search_path=pg_catalog, pg_temp',
        'security invoker'
      ]),
      ('function', 'api_keys_private.find_api_key(uuid)', array[
        'arguments p_api_key_id uuid',
        'body bc9b5b6422a4aa130e0a4653e5ab0cf8',
        'language plpgsql',
        'returns api_keys_private.api_keys',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'stable'
      ]),
      ('function', 'api_keys_private.generate_api_key()', array[
        'arguments ',
        'body a2e19bfb022771c92657ba4f9223d21d',
        'language plpgsql',
        'returns text',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'api_keys_private.has_scope_on_all(text,text[])', array[
        'arguments p_entity_type text, p_actions text[]',
        'body 0306f468bef016f206bcf40da1652a0d',
        'language sql',
        'returns boolean',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'stable'
      ]),
      ('function', 'api_keys_private.keep_api_key_logs(interval)', array[
        'arguments p_period interval',
        'body a14ca4af2fa55c04a8d4ca203ccbeb5d',
        'language plpgsql',
        'returns bigint',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'api_keys_private.lock_api_key(uuid)', array[
        'arguments p_api_key_id uuid',
        'body 7c760e15e5e42b10f10100f480233a5c',
        'language plpgsql',
        'returns api_keys_private.api_keys',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'api_keys_private.log_usage_events(jsonb)', array[
        'arguments p_events jsonb',
        'body feced0133ba386b65ed134790a301a4f',
        'language plpgsql',
        'returns TABLE(event_index bigint, log_id uuid, logged_at timestamp with time zone)',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'api_keys_private.max_overlap()', array[
        'arguments ',
        'body 50e4fb249110c5498fd4d2a7d4b40bf2',
        'immutable',
        'language sql',
        'returns interval',
        'search_path=pg_catalog, pg_temp',
        'security invoker'
      ]),
      ('function', 'api_keys_private.may_read(uuid)', array[
        'arguments p_account_id uuid',
        'body 205a1575e681aa2f73050bef68c3e19f',
        'language sql',
        'returns boolean',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'stable'
      ]),
      ('function', 'api_keys_private.parse_network(text)', array[
        'arguments p_network text',
        'body 3e4ce3026947abbe977b4e36998307bc',
        'immutable',
        'language sql',
        'returns cidr',
        'search_path=pg_catalog, pg_temp',
        'security invoker'
      ]),
      ('function', 'api_keys_private.parse_networks(jsonb)', array[
        'arguments p_networks jsonb',
        'body ef8ce34bfc2fca31005bfdf88fcab06e',
        'immutable',
        'language plpgsql',
        'returns cidr[]',
        'search_path=pg_catalog, pg_temp',
        'security invoker'
      ]),
      ('function', 'api_keys_private.parse_time(text,text)', array[
        'arguments p_field text, p_time text',
        'body 9aea9b910f154d081975ef284ab35f1a',
        'language plpgsql',
        'returns timestamp with time zone',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'stable'
      ]),
      ('function', 'api_keys_private.random_base62(integer)', array[
        'arguments p_length integer',
        'body a60bf9d83e1d1ba4e41a2d4f2933b014',
        'language plpgsql',
        'returns text',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'api_keys_private.record_event()', array[
        'arguments ',
        'body 1fd300ee906d1caf04120cb0284ed6f3',
        'language plpgsql',
        'returns trigger',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'api_keys_private.rehash_api_key(text,text)', array[
        'arguments p_api_key text, p_hash text',
        'body 9424d9cac286bc21fd5587009f7c14df',
        'language plpgsql',
        'returns uuid',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'api_keys_private.require_expiry(timestamp with time zone)', array[
        'arguments p_expires_at timestamp with time zone',
        'body 3b76852ca251221bfa4506a164d7b9ee',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'stable'
      ]),
      ('function', 'api_keys_private.require_json_type(jsonb,text,text[])', array[
        'arguments p_changes jsonb, p_field text, VARIADIC p_types text[]',
        'body 0c2852394f3746a518b038a1a1001070',
        'immutable',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker'
      ]),
      ('function', 'api_keys_private.require_live_caller()', array[
        'arguments ',
        'body f1552f1a34175c550f90f729c780b50f',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'stable'
      ]),
      ('function', 'api_keys_private.require_manager(uuid)', array[
        'arguments p_account_id uuid',
        'body af53623e6379040341009b6cda29e3fa',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'stable'
      ]),
      ('function', 'api_keys_private.require_name(text)', array[
        'arguments p_name text',
        'body e154362079bead2e94ad7c14d0d4c833',
        'immutable',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker'
      ]),
      ('function', 'api_keys_private.require_reader(uuid,uuid)', array[
        'arguments p_account_id uuid, p_api_key_id uuid',
        'body 8cb303b24977ae475ba6c7de0c938de0',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'stable'
      ]),
      ('function', 'api_keys_private.require_room(uuid)', array[
        'arguments p_account_id uuid',
        'body f4e9d2df235f9a6e540862b6598180c5',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'api_keys_private.require_scopes(jsonb)', array[
        'arguments p_scopes jsonb',
        'body 8a9cc41b9c2975d261fae7c9a60addf7',
        'immutable',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker'
      ]),
      ('function', 'api_keys_private.roll_up_usage()', array[
        'arguments ',
        'body 1bd692265957d205d6b54af0710967b9',
        'language plpgsql',
        'returns bigint',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'api_keys_private.scoped_entity_ids(text,text[])', array[
        'arguments p_entity_type text, p_actions text[]',
        'body 6da637e584ea405fc35d803045b3bf3d',
        'language sql',
        'returns SETOF uuid',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'stable'
      ]),
      ('function', 'api_keys_private.store_api_key(uuid,uuid,text,jsonb,timestamp with time zone,jsonb,cidr[])', array[
        'arguments p_account_id uuid, p_created_by uuid, p_name text, p_scopes jsonb, p_expires_at timestamp with time zone, p_metadata jsonb DEFAULT ''{}''::jsonb, p_allowed_ips cidr[] DEFAULT NULL::cidr[]',
        'body e7ebcfbb9bcefb5b2a7231c17965de90',
        'language plpgsql',
        'returns public.create_api_key_response',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'api_keys_private.time_ordered_id()', array[
        'arguments ',
        'body 508f6141ce7e6f6c2a000c197efcc277',
        'language plpgsql',
        'returns uuid',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'api_keys_private.to_response(api_keys_private.api_keys)', array[
        'arguments p_key api_keys_private.api_keys',
        'body 63d434327f5ce1219f26cdea2928d1ee',
        'immutable',
        'language sql',
        'returns public.api_key_response',
        'search_path=pg_catalog, pg_temp',
        'security invoker'
      ]),
      ('function', 'api_keys_private.without_mapping(inet)', array[
        'arguments p_address inet',
        'body 9f3e556a3e66ffac8809cf7bacb58128',
        'immutable',
        'language sql',
        'returns inet',
        'search_path=pg_catalog, pg_temp',
        'security invoker'
      ]),
      ('function', 'audiencelab_private.apply_columns(regclass,regclass)', array[
        'arguments p_table regclass, p_desired regclass',
        'body 4b3c34ef50e287b736c15e4b62e68682',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'audiencelab_private.apply_foreign_keys(regclass,jsonb)', array[
        'arguments p_table regclass, p_foreign_keys jsonb',
        'body f984ecf939cd9d4b4a8bb35ee715d758',
        'language sql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'audiencelab_private.apply_parts(regclass,regclass,text[],jsonb)', array[
        'arguments p_table regclass, p_desired regclass, p_kinds text[], p_foreign_keys jsonb DEFAULT ''{}''::jsonb',
        'body e0cb6936265b354bee159badef07f34d',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'audiencelab_private.apply_table(text,text)', array[
        'arguments p_schema text, p_name text',
        'body 25194316c9567302baff59ef31e8f3ec',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'audiencelab_private.apply_type(text)', array[
        'arguments p_name text',
        'body 3108e60ac9a574ba3e4e3926fb4901bf',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'audiencelab_private.caller_id()', array[
        'arguments ',
        'body 17c2106717ba3e253b0285e449dcaf6f',
        'language plpgsql',
        'returns uuid',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'stable'
      ]),
      ('function', 'audiencelab_private.enforce_limit()', array[
        'arguments ',
        'body 4b2b8dec0f9c026d95576c02e380b12e',
        'language plpgsql',
        'returns trigger',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'audiencelab_private.exceeds_json_limit(jsonb)', array[
        'arguments p_value jsonb',
        'body 26d69947f01b7f80945390318a43fe66',
        'immutable',
        'language sql',
        'returns boolean',
        'search_path=pg_catalog, pg_temp',
        'security invoker'
      ]),
      ('function', 'audiencelab_private.exceeds_texts_limit(text[])', array[
        'arguments p_texts text[]',
        'body 2e74fdec490a8daaf43bfc37e7d7c791',
        'immutable',
        'language sql',
        'returns boolean',
        'search_path=pg_catalog, pg_temp',
        'security invoker'
      ]),
      ('function', 'audiencelab_private.is_member(uuid,character varying)', array[
        'arguments p_account_id uuid, p_account_role character varying DEFAULT NULL::character varying',
        'body bebf8f47af180ced0d67fe4b41292916',
        'language plpgsql',
        'returns boolean',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'stable'
      ]),
      ('function', 'audiencelab_private.is_service()', array[
        'arguments ',
        'body dfebb43dc48f9f036a77323d9aae130a',
        'language sql',
        'returns boolean',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'stable'
      ]),
      ('function', 'audiencelab_private.keep_identity()', array[
        'arguments ',
        'body a0798b11111612c59f80dc278888b05a',
        'language plpgsql',
        'returns trigger',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'audiencelab_private.member_account_ids()', array[
        'arguments ',
        'body 86d165b16b9d3d53160696d962abebad',
        'language sql',
        'returns SETOF uuid',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'stable'
      ]),
      ('function', 'audiencelab_private.prepare_functions(text[])', array[
        'arguments VARIADIC p_signatures text[]',
        'body c1de8c7281d9488be33bb2f021c99391',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'audiencelab_private.publish(regclass)', array[
        'arguments p_table regclass',
        'body b7fae6de5b45b4939c1689ea3d782abe',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'audiencelab_private.require_member(uuid)', array[
        'arguments p_account_id uuid',
        'body 58891abe46c62c68c343335766477e61',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'stable'
      ]),
      ('function', 'audiencelab_private.require_ownership(text,text[])', array[
        'arguments p_schema text, p_names text[]',
        'body 0dc30fc869a227ec645a41f3461dbfc9',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'stable'
      ]),
      ('function', 'audiencelab_private.require_segment_writer(uuid,uuid)', array[
        'arguments p_account_id uuid, p_segment_id uuid',
        'body 3357a8ce032d0689b4ac5a1b9c001de3',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'stable'
      ]),
      ('function', 'audiencelab_private.revoke_privileges(text,text[])', array[
        'arguments p_schema text, p_names text[] DEFAULT NULL::text[]',
        'body 641e19ba80ead71fd9c5bc2d9b09615c',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'audiencelab_private.set_server_columns()', array[
        'arguments ',
        'body 484ca985f88b0768d3a0f29e2e5113ab',
        'language plpgsql',
        'returns trigger',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'audiencelab_private.table_columns(regclass)', array[
        'arguments p_table regclass',
        'body 962c3a650f56edf5acf4733b534b6013',
        'language sql',
        'returns TABLE("position" smallint, name text, type text, expression text, is_required boolean, definition text)',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'stable'
      ]),
      ('function', 'audiencelab_private.table_parts(regclass)', array[
        'arguments p_table regclass',
        'body 35be9c5ef15dab6b22bfb042c752a1b2',
        'language sql',
        'returns TABLE(kind text, name text, definition text)',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'stable'
      ]),
      ('function', 'enrichment_private.add_up_records()', array[
        'arguments ',
        'body 06ffcac4201d844284309c79a19f1840',
        'language plpgsql',
        'returns trigger',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'enrichment_private.combine_partial_sums(uuid)', array[
        'arguments p_job_id uuid',
        'body e51e89a9363a16e7bb1888f1b2f06620',
        'language sql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'enrichment_private.count_units(uuid)', array[
        'arguments p_job_id uuid',
        'body 6ba366bb251fef38130e9fd89aab264e',
        'language plpgsql',
        'returns TABLE(processed_records integer, failed_records integer)',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'enrichment_private.delete_partial_sums()', array[
        'arguments ',
        'body 68504548a94a25500dcde62a723de63e',
        'language plpgsql',
        'returns trigger',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'enrichment_private.keep_counters()', array[
        'arguments ',
        'body 583a806bff930ecb250dd56653ff05b8',
        'language plpgsql',
        'returns trigger',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'enrichment_private.lock_reports(uuid)', array[
        'arguments p_job_id uuid',
        'body ada0f402b2c7ca166696d626cbb1c4fc',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'enrichment_private.may_write(public.enrichment_tracking)', array[
        'arguments p_job public.enrichment_tracking',
        'body 2a0e069eaa50ab9b43cf18318380cace',
        'language plpgsql',
        'returns boolean',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'stable'
      ]),
      ('function', 'enrichment_private.require_read_committed()', array[
        'arguments ',
        'body d246832a56773ec8c9c814df4efbc237',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security invoker',
        'volatile'
      ]),
      ('function', 'public.api_key_log(uuid,uuid,integer,timestamp with time zone,uuid)', array[
        'arguments p_account_id uuid, p_api_key_id uuid DEFAULT NULL::uuid, p_limit integer DEFAULT 100, p_before timestamp with time zone DEFAULT NULL::timestamp with time zone, p_before_id uuid DEFAULT NULL::uuid',
        'body c7a5336de37927aba04969903535c6be',
        'language plpgsql',
        'returns TABLE(id uuid, api_key_id uuid, endpoint text, method text, status_code integer, ip_address text, user_agent text, "timestamp" timestamp with time zone)',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'stable'
      ]),
      ('function', 'public.api_key_usage(uuid,timestamp with time zone,timestamp with time zone,text,uuid)', array[
        'arguments p_account_id uuid, p_from timestamp with time zone, p_to timestamp with time zone, p_bucket text DEFAULT ''day''::text, p_api_key_id uuid DEFAULT NULL::uuid',
        'body 43e35fcaa79a6e41f5b0bd27fb329767',
        'language plpgsql',
        'returns TABLE(api_key_id uuid, bucket timestamp with time zone, requests bigint, errors bigint, last_used_at timestamp with time zone)',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'stable'
      ]),
      ('function', 'public.authenticate_api_key(text,inet)', array[
        'arguments p_api_key text, p_ip inet DEFAULT NULL::inet',
        'body ee59524ad0514a6b30a293c54b758556',
        'language plpgsql',
        'returns public.authenticate_api_key_response',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'public.create_api_key(uuid,text,jsonb,timestamp with time zone)', array[
        'arguments p_account_id uuid, p_name text, p_scopes jsonb, p_expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone',
        'body 30a55d7205d1b9da6cb836c264231ea1',
        'language plpgsql',
        'returns public.create_api_key_response',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'public.create_studio_segment(uuid,text,text,text,text,jsonb,text[],jsonb,text[])', array[
        'arguments p_account_id uuid, p_name text, p_source_type text, p_source_id text, p_description text DEFAULT NULL::text, p_filters jsonb DEFAULT ''[]''::jsonb, p_enrichment_fields text[] DEFAULT ''{}''::text[], p_custom_columns jsonb DEFAULT ''[]''::jsonb, p_tags text[] DEFAULT ''{}''::text[]',
        'body c3f1bffa61b952b04d9bcf3ef0d2719e',
        'language plpgsql',
        'returns uuid',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'public.delete_studio_segment(uuid)', array[
        'arguments p_segment_id uuid',
        'body 15bdcc0d023711adc7c46067dfb49b1a',
        'language plpgsql',
        'returns void',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'public.disable_api_key(uuid)', array[
        'arguments p_api_key_id uuid',
        'body 9ad4f145ad44b083327d22f0b0024c3f',
        'language plpgsql',
        'returns public.api_key_response',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'public.enable_api_key(uuid)', array[
        'arguments p_api_key_id uuid',
        'body 53d496054921646bc5d4d31838f7b7be',
        'language plpgsql',
        'returns public.api_key_response',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'public.fail_stale_enrichment_jobs(interval)', array[
        'arguments p_older_than interval',
        'body 648b6d38b3cd46afe9b764748408baec',
        'language plpgsql',
        'returns integer',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'public.get_api_key(uuid)', array[
        'arguments p_api_key_id uuid',
        'body 4e82b689bc3af462ad27d8178e76536c',
        'language plpgsql',
        'returns public.api_key_response',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'stable'
      ]),
      ('function', 'public.get_api_key_account_id()', array[
        'arguments ',
        'body 6cd602cfeb87982baa6327718735b7b1',
        'language sql',
        'returns uuid',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'stable'
      ]),
      ('function', 'public.has_scope(text,text,text)', array[
        'arguments p_entity_type text, p_entity_id text, p_action text',
        'body f3e98d52df1f1f59ddd26becf99649e9',
        'language sql',
        'returns boolean',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'stable'
      ]),
      ('function', 'public.issue_api_key(uuid,uuid,text,jsonb,timestamp with time zone)', array[
        'arguments p_account_id uuid, p_created_by uuid, p_name text, p_scopes jsonb, p_expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone',
        'body c9947f18c55bdd169b5d8d50abe0f7d4',
        'language plpgsql',
        'returns public.create_api_key_response',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'public.list_api_key_events(uuid,uuid,integer,timestamp with time zone,uuid)', array[
        'arguments p_account_id uuid, p_api_key_id uuid DEFAULT NULL::uuid, p_limit integer DEFAULT 100, p_before timestamp with time zone DEFAULT NULL::timestamp with time zone, p_before_id uuid DEFAULT NULL::uuid',
        'body 869b93b925d8b579903bab33c7b1a9d4',
        'language plpgsql',
        'returns TABLE(id uuid, api_key_id uuid, event text, actor_type text, actor_id uuid, changes jsonb, created_at timestamp with time zone)',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'stable'
      ]),
      ('function', 'public.list_api_keys(uuid)', array[
        'arguments p_account_id uuid',
        'body cd1d90044d4fce53c2f60e47849a93dc',
        'language plpgsql',
        'returns TABLE(id uuid, name text, key_prefix text, scopes jsonb, expires_at timestamp with time zone, created_at timestamp with time zone, last_used_at timestamp with time zone, is_active boolean, created_by uuid)',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'stable'
      ]),
      ('function', 'public.log_api_key_usage(uuid,text,text,integer,text,text)', array[
        'arguments p_api_key_id uuid, p_endpoint text, p_method text, p_status_code integer, p_ip_address text, p_user_agent text',
        'body 2d2eab8e6ecc0e772c174a43277cd896',
        'language plpgsql',
        'returns public.api_key_usage_log_response',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'public.log_api_key_usage_batch(jsonb)', array[
        'arguments p_events jsonb',
        'body 6cca3d87ccf87624c1e204379d8861ad',
        'language plpgsql',
        'returns TABLE(event_index integer, success boolean, log_id uuid, "timestamp" timestamp with time zone, error text, error_code text)',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'public.purge_api_key_logs(timestamp with time zone,integer)', array[
        'arguments p_before timestamp with time zone, p_limit integer DEFAULT 10000',
        'body 43c849082673ab7881b434cc028c0c19',
        'language plpgsql',
        'returns integer',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'public.report_enrichment_progress(uuid,text,integer,integer)', array[
        'arguments p_job_id uuid, p_unit text, p_processed integer, p_failed integer',
        'body a630ea993203e32ffbbb05d27795a890',
        'language plpgsql',
        'returns public.enrichment_tracking',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'public.reset_enrichment_progress(uuid,text)', array[
        'arguments p_job_id uuid, p_unit text DEFAULT NULL::text',
        'body 0b254a172d0ceaeaed2921f94ff042b9',
        'language plpgsql',
        'returns public.enrichment_tracking',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'public.restore_studio_segment(uuid)', array[
        'arguments p_segment_id uuid',
        'body 4db364022723419a9b1bfb08a72cf7d8',
        'language plpgsql',
        'returns public.segments',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'public.retry_enrichment_job(uuid,boolean)', array[
        'arguments p_job_id uuid, p_reset boolean DEFAULT false',
        'body bcf18a10abbe011d52aaf1eda4298d18',
        'language plpgsql',
        'returns public.enrichment_tracking',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'public.revoke_api_key(uuid)', array[
        'arguments p_api_key_id uuid',
        'body 20e76b30b9b9d3b09c2781be4ef91f82',
        'language plpgsql',
        'returns boolean',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'public.revoke_api_keys_of(uuid,uuid)', array[
        'arguments p_user_id uuid, p_account_id uuid DEFAULT NULL::uuid',
        'body 4093297aca58ed17adb72de5987f99a2',
        'language plpgsql',
        'returns integer',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'public.rotate_api_key(uuid,interval)', array[
        'arguments p_api_key_id uuid, p_overlap interval DEFAULT ''1 day''::interval',
        'body 02c12b5aa945f30a56132120fba1914a',
        'language plpgsql',
        'returns public.create_api_key_response',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'public.update_api_key(uuid,jsonb)', array[
        'arguments p_api_key_id uuid, p_changes jsonb',
        'body 21e39fe690f3ac0db8dfd56bbdab2060',
        'language plpgsql',
        'returns public.api_key_response',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('function', 'public.verify_api_key(text)', array[
        'arguments p_api_key text',
        'body cfcd0ac0179e556e5f22280b5596fcf1',
        'language plpgsql',
        'returns public.verify_api_key_response',
        'search_path=pg_catalog, pg_temp',
        'security definer',
        'volatile'
      ]),
      ('index', 'api_keys_private.api_key_events_account_id_created_at_id_idx', array[
        'CREATE INDEX api_key_events_account_id_created_at_id_idx ON api_keys_private.api_key_events USING btree (account_id, created_at DESC, id DESC)'
      ]),
      ('index', 'api_keys_private.api_key_events_api_key_id_created_at_id_idx', array[
        'CREATE INDEX api_key_events_api_key_id_created_at_id_idx ON api_keys_private.api_key_events USING btree (api_key_id, created_at DESC, id DESC)'
      ]),
      ('index', 'api_keys_private.api_key_events_pkey', array[
        'CREATE UNIQUE INDEX api_key_events_pkey ON api_keys_private.api_key_events USING btree (id)'
      ]),
      ('index', 'api_keys_private.api_key_logs_api_key_id_timestamp_idx', array[
        'CREATE INDEX api_key_logs_api_key_id_timestamp_idx ON api_keys_private.api_key_logs USING btree (api_key_id, "timestamp" DESC)'
      ]),
      ('index', 'api_keys_private.api_key_logs_pkey', array[
        'CREATE UNIQUE INDEX api_key_logs_pkey ON api_keys_private.api_key_logs USING btree (id)'
      ]),
      ('index', 'api_keys_private.api_key_logs_position_idx', array[
        'CREATE INDEX api_key_logs_position_idx ON api_keys_private.api_key_logs USING btree ("position")'
      ]),
      ('index', 'api_keys_private.api_key_logs_timestamp_idx', array[
        'CREATE INDEX api_key_logs_timestamp_idx ON api_keys_private.api_key_logs USING btree ("timestamp")'
      ]),
      ('index', 'api_keys_private.api_key_usage_hours_pkey', array[
        'CREATE UNIQUE INDEX api_key_usage_hours_pkey ON api_keys_private.api_key_usage_hours USING btree (api_key_id, hour)'
      ]),
      ('index', 'api_keys_private.api_key_usage_progress_pkey', array[
        'CREATE UNIQUE INDEX api_key_usage_progress_pkey ON api_keys_private.api_key_usage_progress USING btree (id)'
      ]),
      ('index', 'api_keys_private.api_keys_account_id_created_at_id_idx', array[
        'CREATE INDEX api_keys_account_id_created_at_id_idx ON api_keys_private.api_keys USING btree (account_id, created_at DESC, id DESC)'
      ]),
      ('index', 'api_keys_private.api_keys_key_hash_key', array[
        'CREATE UNIQUE INDEX api_keys_key_hash_key ON api_keys_private.api_keys USING btree (key_hash)'
      ]),
      ('index', 'api_keys_private.api_keys_key_prefix_idx', array[
        'CREATE INDEX api_keys_key_prefix_idx ON api_keys_private.api_keys USING btree (key_prefix) WHERE (key_hash ~~ ''$2a$%''::text)'
      ]),
      ('index', 'api_keys_private.api_keys_pkey', array[
        'CREATE UNIQUE INDEX api_keys_pkey ON api_keys_private.api_keys USING btree (id)'
      ]),
      ('index', 'api_keys_private.failed_comparisons_pkey', array[
        'CREATE UNIQUE INDEX failed_comparisons_pkey ON api_keys_private.failed_comparisons USING btree (key_prefix)'
      ]),
      ('index', 'api_keys_private.settings_manage_keys_role_idx', array[
        'CREATE INDEX settings_manage_keys_role_idx ON api_keys_private.settings USING btree (manage_keys_role)'
      ]),
      ('index', 'api_keys_private.settings_pkey', array[
        'CREATE UNIQUE INDEX settings_pkey ON api_keys_private.settings USING btree (id)'
      ]),
      ('index', 'enrichment_private.partial_sums_pkey', array[
        'CREATE UNIQUE INDEX partial_sums_pkey ON enrichment_private.partial_sums USING btree (job_id, session_pid)'
      ]),
      ('index', 'enrichment_private.unit_progress_pkey', array[
        'CREATE UNIQUE INDEX unit_progress_pkey ON enrichment_private.unit_progress USING btree (job_id, unit)'
      ]),
      ('index', 'public.enrichment_tracking_account_id_created_at_id_idx', array[
        'CREATE INDEX enrichment_tracking_account_id_created_at_id_idx ON public.enrichment_tracking USING btree (account_id, created_at DESC, id DESC)'
      ]),
      ('index', 'public.enrichment_tracking_account_id_status_created_at_idx', array[
        'CREATE INDEX enrichment_tracking_account_id_status_created_at_idx ON public.enrichment_tracking USING btree (account_id, status, created_at DESC)'
      ]),
      ('index', 'public.enrichment_tracking_audience_id_created_at_idx', array[
        'CREATE INDEX enrichment_tracking_audience_id_created_at_idx ON public.enrichment_tracking USING btree (audience_id, created_at DESC)'
      ]),
      ('index', 'public.enrichment_tracking_created_at_idx', array[
        'CREATE INDEX enrichment_tracking_created_at_idx ON public.enrichment_tracking USING brin (created_at)'
      ]),
      ('index', 'public.enrichment_tracking_created_by_idx', array[
        'CREATE INDEX enrichment_tracking_created_by_idx ON public.enrichment_tracking USING btree (created_by)'
      ]),
      ('index', 'public.enrichment_tracking_pkey', array[
        'CREATE UNIQUE INDEX enrichment_tracking_pkey ON public.enrichment_tracking USING btree (id)'
      ]),
      ('index', 'public.enrichment_tracking_unfinished_idx', array[
        'CREATE INDEX enrichment_tracking_unfinished_idx ON public.enrichment_tracking USING btree (status, created_at) WHERE (status = ANY (ARRAY[''pending''::text, ''processing''::text]))'
      ]),
      ('index', 'public.segments_account_id_created_at_id_idx', array[
        'CREATE INDEX segments_account_id_created_at_id_idx ON public.segments USING btree (account_id, created_at DESC, id DESC) INCLUDE (deleted, updated_at)'
      ]),
      ('index', 'public.segments_account_id_source_type_created_at_idx', array[
        'CREATE INDEX segments_account_id_source_type_created_at_idx ON public.segments USING btree (account_id, source_type, created_at DESC)'
      ]),
      ('index', 'public.segments_created_at_idx', array[
        'CREATE INDEX segments_created_at_idx ON public.segments USING brin (created_at)'
      ]),
      ('index', 'public.segments_created_by_idx', array[
        'CREATE INDEX segments_created_by_idx ON public.segments USING btree (created_by)'
      ]),
      ('index', 'public.segments_deleted_idx', array[
        'CREATE INDEX segments_deleted_idx ON public.segments USING btree (updated_at) WHERE deleted'
      ]),
      ('index', 'public.segments_pkey', array[
        'CREATE UNIQUE INDEX segments_pkey ON public.segments USING btree (id)'
      ]),
      ('policy', 'enrichment_tracking_insert on public.enrichment_tracking', array[
        'for insert',
        'permissive',
        'to authenticated',
        'with check (account_id = ANY (ARRAY( SELECT audiencelab_private.member_account_ids() AS member_account_ids)))'
      ]),
      ('policy', 'enrichment_tracking_insert_api_key on public.enrichment_tracking', array[
        'for insert',
        'permissive',
        'to api_key',
        'with check ((account_id = ( SELECT public.get_api_key_account_id() AS get_api_key_account_id)) AND ( SELECT api_keys_private.has_scope_on_all(''enrichment''::text, ''{write}''::text[]) AS has_scope_on_all))'
      ]),
      ('policy', 'enrichment_tracking_select on public.enrichment_tracking', array[
        'for select',
        'permissive',
        'to authenticated',
        'using (account_id = ANY (ARRAY( SELECT audiencelab_private.member_account_ids() AS member_account_ids)))'
      ]),
      ('policy', 'enrichment_tracking_select_api_key on public.enrichment_tracking', array[
        'for select',
        'permissive',
        'to api_key',
        'using ((account_id = ( SELECT public.get_api_key_account_id() AS get_api_key_account_id)) AND (( SELECT api_keys_private.has_scope_on_all(''enrichment''::text, ''{read,write}''::text[]) AS has_scope_on_all) OR (id = ANY (ARRAY( SELECT api_keys_private.scoped_entity_ids(''enrichment''::text, ''{read,write}''::text[]) AS scoped_entity_ids)))))'
      ]),
      ('policy', 'enrichment_tracking_update on public.enrichment_tracking', array[
        'for update',
        'permissive',
        'to authenticated',
        'using (account_id = ANY (ARRAY( SELECT audiencelab_private.member_account_ids() AS member_account_ids)))',
        'with check (account_id = ANY (ARRAY( SELECT audiencelab_private.member_account_ids() AS member_account_ids)))'
      ]),
      ('policy', 'enrichment_tracking_update_api_key on public.enrichment_tracking', array[
        'for update',
        'permissive',
        'to api_key',
        'using ((account_id = ( SELECT public.get_api_key_account_id() AS get_api_key_account_id)) AND (( SELECT api_keys_private.has_scope_on_all(''enrichment''::text, ''{write}''::text[]) AS has_scope_on_all) OR (id = ANY (ARRAY( SELECT api_keys_private.scoped_entity_ids(''enrichment''::text, ''{write}''::text[]) AS scoped_entity_ids)))))',
        'with check ((account_id = ( SELECT public.get_api_key_account_id() AS get_api_key_account_id)) AND (( SELECT api_keys_private.has_scope_on_all(''enrichment''::text, ''{write}''::text[]) AS has_scope_on_all) OR (id = ANY (ARRAY( SELECT api_keys_private.scoped_entity_ids(''enrichment''::text, ''{write}''::text[]) AS scoped_entity_ids)))))'
      ]),
      ('policy', 'segments_delete on public.segments', array[
        'for delete',
        'permissive',
        'to authenticated',
        'using ((account_id = ANY (ARRAY( SELECT audiencelab_private.member_account_ids() AS member_account_ids))) AND (NOT deleted))'
      ]),
      ('policy', 'segments_insert on public.segments', array[
        'for insert',
        'permissive',
        'to authenticated',
        'with check (account_id = ANY (ARRAY( SELECT audiencelab_private.member_account_ids() AS member_account_ids)))'
      ]),
      ('policy', 'segments_insert_api_key on public.segments', array[
        'for insert',
        'permissive',
        'to api_key',
        'with check ((account_id = ( SELECT public.get_api_key_account_id() AS get_api_key_account_id)) AND ( SELECT api_keys_private.has_scope_on_all(''segment''::text, ''{write}''::text[]) AS has_scope_on_all))'
      ]),
      ('policy', 'segments_select on public.segments', array[
        'for select',
        'permissive',
        'to authenticated',
        'using ((account_id = ANY (ARRAY( SELECT audiencelab_private.member_account_ids() AS member_account_ids))) AND ((NOT deleted) OR ((updated_at = now()) AND (pg_current_xact_id_if_assigned() IS NOT NULL))))'
      ]),
      ('policy', 'segments_select_api_key on public.segments', array[
        'for select',
        'permissive',
        'to api_key',
        'using ((account_id = ( SELECT public.get_api_key_account_id() AS get_api_key_account_id)) AND ((NOT deleted) OR ((updated_at = now()) AND (pg_current_xact_id_if_assigned() IS NOT NULL))) AND (( SELECT api_keys_private.has_scope_on_all(''segment''::text, ''{read,write}''::text[]) AS has_scope_on_all) OR (id = ANY (ARRAY( SELECT api_keys_private.scoped_entity_ids(''segment''::text, ''{read,write}''::text[]) AS scoped_entity_ids)))))'
      ]),
      ('policy', 'segments_update on public.segments', array[
        'for update',
        'permissive',
        'to authenticated',
        'using ((account_id = ANY (ARRAY( SELECT audiencelab_private.member_account_ids() AS member_account_ids))) AND (NOT deleted))',
        'with check (account_id = ANY (ARRAY( SELECT audiencelab_private.member_account_ids() AS member_account_ids)))'
      ]),
      ('policy', 'segments_update_api_key on public.segments', array[
        'for update',
        'permissive',
        'to api_key',
        'using ((account_id = ( SELECT public.get_api_key_account_id() AS get_api_key_account_id)) AND (NOT deleted) AND (( SELECT api_keys_private.has_scope_on_all(''segment''::text, ''{write}''::text[]) AS has_scope_on_all) OR (id = ANY (ARRAY( SELECT api_keys_private.scoped_entity_ids(''segment''::text, ''{write}''::text[]) AS scoped_entity_ids)))))',
        'with check ((account_id = ( SELECT public.get_api_key_account_id() AS get_api_key_account_id)) AND (( SELECT api_keys_private.has_scope_on_all(''segment''::text, ''{write}''::text[]) AS has_scope_on_all) OR (id = ANY (ARRAY( SELECT api_keys_private.scoped_entity_ids(''segment''::text, ''{write}''::text[]) AS scoped_entity_ids)))))'
      ]),
      ('privileges', 'api_keys_direct.find_api_key(text)', array[
        'execute to anon'
      ]),
      ('privileges', 'api_keys_direct.pre_request()', array[
        'execute to public'
      ]),
      ('privileges', 'api_keys_private.api_key_events', array[
        'select to service_role'
      ]),
      ('privileges', 'api_keys_private.api_key_logs', array[
        'delete to service_role',
        'insert to service_role',
        'select to service_role',
        'update to service_role'
      ]),
      ('privileges', 'api_keys_private.api_key_usage_hours', array[
        'select to service_role'
      ]),
      ('privileges', 'api_keys_private.api_key_usage_progress', array[
        'select to service_role'
      ]),
      ('privileges', 'api_keys_private.api_keys', array[
        'delete to service_role',
        'insert to service_role',
        'select to service_role',
        'update to service_role'
      ]),
      ('privileges', 'api_keys_private.bcrypt_api_keys', array[
        'select to service_role'
      ]),
      ('privileges', 'api_keys_private.failed_comparisons', array[
        'delete to service_role',
        'select to service_role'
      ]),
      ('privileges', 'api_keys_private.has_scope_on_all(text,text[])', array[
        'execute to api_key'
      ]),
      ('privileges', 'api_keys_private.live_api_keys', array[
        'select to service_role'
      ]),
      ('privileges', 'api_keys_private.scoped_entity_ids(text,text[])', array[
        'execute to api_key'
      ]),
      ('privileges', 'api_keys_private.settings', array[
        'select to service_role',
        'update to service_role'
      ]),
      ('privileges', 'audiencelab_private.exceeds_json_limit(jsonb)', array[
        'execute to api_key',
        'execute to authenticated',
        'execute to service_role'
      ]),
      ('privileges', 'audiencelab_private.exceeds_texts_limit(text[])', array[
        'execute to api_key',
        'execute to authenticated',
        'execute to service_role'
      ]),
      ('privileges', 'audiencelab_private.member_account_ids()', array[
        'execute to authenticated'
      ]),
      ('privileges', 'enrichment_private.partial_sums', array[
        'select to service_role'
      ]),
      ('privileges', 'enrichment_private.unit_progress', array[
        'select to service_role'
      ]),
      ('privileges', 'public.api_key_log(uuid,uuid,integer,timestamp with time zone,uuid)', array[
        'execute to authenticated',
        'execute to service_role'
      ]),
      ('privileges', 'public.api_key_usage(uuid,timestamp with time zone,timestamp with time zone,text,uuid)', array[
        'execute to authenticated',
        'execute to service_role'
      ]),
      ('privileges', 'public.authenticate_api_key(text,inet)', array[
        'execute to service_role'
      ]),
      ('privileges', 'public.create_api_key(uuid,text,jsonb,timestamp with time zone)', array[
        'execute to authenticated'
      ]),
      ('privileges', 'public.create_studio_segment(uuid,text,text,text,text,jsonb,text[],jsonb,text[])', array[
        'execute to api_key',
        'execute to authenticated'
      ]),
      ('privileges', 'public.delete_studio_segment(uuid)', array[
        'execute to api_key',
        'execute to authenticated'
      ]),
      ('privileges', 'public.disable_api_key(uuid)', array[
        'execute to authenticated',
        'execute to service_role'
      ]),
      ('privileges', 'public.enable_api_key(uuid)', array[
        'execute to authenticated',
        'execute to service_role'
      ]),
      ('privileges', 'public.enrichment_tracking', array[
        'delete to service_role',
        'insert to api_key',
        'insert to authenticated',
        'insert to service_role',
        'select to api_key',
        'select to authenticated',
        'select to service_role',
        'update (completed_at) to api_key',
        'update (enrichment_fields) to api_key',
        'update (failed_records) to api_key',
        'update (metadata) to api_key',
        'update (processed_records) to api_key',
        'update (started_at) to api_key',
        'update (status) to api_key',
        'update (total_records) to api_key',
        'update to authenticated',
        'update to service_role'
      ]),
      ('privileges', 'public.fail_stale_enrichment_jobs(interval)', array[
        'execute to service_role'
      ]),
      ('privileges', 'public.get_api_key(uuid)', array[
        'execute to authenticated',
        'execute to service_role'
      ]),
      ('privileges', 'public.get_api_key_account_id()', array[
        'execute to api_key'
      ]),
      ('privileges', 'public.has_scope(text,text,text)', array[
        'execute to api_key'
      ]),
      ('privileges', 'public.issue_api_key(uuid,uuid,text,jsonb,timestamp with time zone)', array[
        'execute to service_role'
      ]),
      ('privileges', 'public.list_api_key_events(uuid,uuid,integer,timestamp with time zone,uuid)', array[
        'execute to authenticated',
        'execute to service_role'
      ]),
      ('privileges', 'public.list_api_keys(uuid)', array[
        'execute to authenticated',
        'execute to service_role'
      ]),
      ('privileges', 'public.log_api_key_usage(uuid,text,text,integer,text,text)', array[
        'execute to service_role'
      ]),
      ('privileges', 'public.log_api_key_usage_batch(jsonb)', array[
        'execute to service_role'
      ]),
      ('privileges', 'public.purge_api_key_logs(timestamp with time zone,integer)', array[
        'execute to service_role'
      ]),
      ('privileges', 'public.report_enrichment_progress(uuid,text,integer,integer)', array[
        'execute to api_key',
        'execute to authenticated',
        'execute to service_role'
      ]),
      ('privileges', 'public.reset_enrichment_progress(uuid,text)', array[
        'execute to service_role'
      ]),
      ('privileges', 'public.restore_studio_segment(uuid)', array[
        'execute to api_key',
        'execute to authenticated'
      ]),
      ('privileges', 'public.retry_enrichment_job(uuid,boolean)', array[
        'execute to api_key',
        'execute to authenticated',
        'execute to service_role'
      ]),
      ('privileges', 'public.revoke_api_key(uuid)', array[
        'execute to authenticated',
        'execute to service_role'
      ]),
      ('privileges', 'public.revoke_api_keys_of(uuid,uuid)', array[
        'execute to authenticated',
        'execute to service_role'
      ]),
      ('privileges', 'public.rotate_api_key(uuid,interval)', array[
        'execute to authenticated',
        'execute to service_role'
      ]),
      ('privileges', 'public.segments', array[
        'delete to authenticated',
        'delete to service_role',
        'insert to api_key',
        'insert to authenticated',
        'insert to service_role',
        'select to api_key',
        'select to authenticated',
        'select to service_role',
        'update (custom_columns) to api_key',
        'update (deleted) to api_key',
        'update (description) to api_key',
        'update (enrichment_fields) to api_key',
        'update (filters) to api_key',
        'update (name) to api_key',
        'update (source_id) to api_key',
        'update (source_type) to api_key',
        'update (tags) to api_key',
        'update to authenticated',
        'update to service_role'
      ]),
      ('privileges', 'public.update_api_key(uuid,jsonb)', array[
        'execute to authenticated',
        'execute to service_role'
      ]),
      ('privileges', 'public.verify_api_key(text)', array[
        'execute to api_key',
        'execute to service_role'
      ]),
      ('privileges', 'schema api_keys_direct', array[
        'usage to public'
      ]),
      ('privileges', 'schema api_keys_private', array[
        'usage to service_role'
      ]),
      ('privileges', 'schema enrichment_private', array[
        'usage to service_role'
      ]),
      ('publication', 'supabase_realtime of public.enrichment_tracking', array[
        'published'
      ]),
      ('publication', 'supabase_realtime of public.segments', array[
        'published'
      ]),
      ('role', 'api_key', array[
        'cannot log in',
        'granted to authenticator',
        'has usage of schema public',
        'subject to row level security'
      ]),
      ('table', 'api_keys_private.api_key_events', array[
        'row level security enabled',
        'table'
      ]),
      ('table', 'api_keys_private.api_key_logs', array[
        'row level security enabled',
        'table'
      ]),
      ('table', 'api_keys_private.api_key_usage_hours', array[
        'row level security enabled',
        'table'
      ]),
      ('table', 'api_keys_private.api_key_usage_progress', array[
        'row level security enabled',
        'table'
      ]),
      ('table', 'api_keys_private.api_keys', array[
        'row level security enabled',
        'table'
      ]),
      ('table', 'api_keys_private.bcrypt_api_keys', array[
        'security invoker',
        'view'
      ]),
      ('table', 'api_keys_private.failed_comparisons', array[
        'row level security enabled',
        'table'
      ]),
      ('table', 'api_keys_private.live_api_keys', array[
        'security invoker',
        'view'
      ]),
      ('table', 'api_keys_private.settings', array[
        'row level security enabled',
        'table'
      ]),
      ('table', 'enrichment_private.partial_sums', array[
        'row level security enabled',
        'table'
      ]),
      ('table', 'enrichment_private.unit_progress', array[
        'row level security enabled',
        'table'
      ]),
      ('table', 'public.enrichment_tracking', array[
        'row level security enabled',
        'table'
      ]),
      ('table', 'public.segments', array[
        'row level security enabled',
        'table'
      ]),
      ('trigger', 'add_up_records_enrichment_tracking on public.enrichment_tracking', array[
        'CREATE TRIGGER add_up_records_enrichment_tracking BEFORE UPDATE ON public.enrichment_tracking FOR EACH ROW WHEN (((new.status <> old.status) AND (new.status = ANY (ARRAY[''completed''::text, ''failed''::text])))) EXECUTE FUNCTION enrichment_private.add_up_records()',
        'enabled'
      ]),
      ('trigger', 'api_keys_allowed_ips_limit on api_keys_private.api_keys', array[
        'CREATE TRIGGER api_keys_allowed_ips_limit BEFORE INSERT OR UPDATE OF allowed_ips ON api_keys_private.api_keys FOR EACH ROW WHEN (((cardinality(new.allowed_ips) < 1) OR (cardinality(new.allowed_ips) > 50))) EXECUTE FUNCTION audiencelab_private.enforce_limit(''allowed_ips'', ''must be null or have 1 to 50 networks'')',
        'enabled'
      ]),
      ('trigger', 'api_keys_expires_at_limit on api_keys_private.api_keys', array[
        'CREATE TRIGGER api_keys_expires_at_limit BEFORE INSERT OR UPDATE OF expires_at ON api_keys_private.api_keys FOR EACH ROW WHEN ((new.expires_at >= ''10000-01-01 00:00:00+00''::timestamp with time zone)) EXECUTE FUNCTION audiencelab_private.enforce_limit(''expires_at'', ''must be before the year 10000'')',
        'enabled'
      ]),
      ('trigger', 'api_keys_metadata_limit on api_keys_private.api_keys', array[
        'CREATE TRIGGER api_keys_metadata_limit BEFORE INSERT OR UPDATE OF metadata ON api_keys_private.api_keys FOR EACH ROW WHEN (((jsonb_typeof(new.metadata) <> ''object''::text) OR (octet_length((new.metadata)::text) > 4096) OR audiencelab_private.exceeds_json_limit(new.metadata))) EXECUTE FUNCTION audiencelab_private.enforce_limit(''metadata'', ''must be an object of at most 4,096 bytes as text and 100 levels, with numbers in the range of a double'')',
        'enabled'
      ]),
      ('trigger', 'api_keys_name_limit on api_keys_private.api_keys', array[
        'CREATE TRIGGER api_keys_name_limit BEFORE INSERT OR UPDATE OF name ON api_keys_private.api_keys FOR EACH ROW WHEN ((length(new.name) > 255)) EXECUTE FUNCTION audiencelab_private.enforce_limit(''name'', ''must have at most 255 characters'')',
        'enabled'
      ]),
      ('trigger', 'api_keys_record_change on api_keys_private.api_keys', array[
        'CREATE TRIGGER api_keys_record_change AFTER UPDATE OF account_id, name, scopes, expires_at, created_by, is_active, disabled_at, metadata, allowed_ips, successor_id ON api_keys_private.api_keys FOR EACH ROW WHEN (((old.account_id IS DISTINCT FROM new.account_id) OR (old.name IS DISTINCT FROM new.name) OR (old.scopes IS DISTINCT FROM new.scopes) OR (old.expires_at IS DISTINCT FROM new.expires_at) OR (old.created_by IS DISTINCT FROM new.created_by) OR (old.is_active IS DISTINCT FROM new.is_active) OR (old.disabled_at IS DISTINCT FROM new.disabled_at) OR (old.metadata IS DISTINCT FROM new.metadata) OR (old.allowed_ips IS DISTINCT FROM new.allowed_ips) OR (old.successor_id IS DISTINCT FROM new.successor_id))) EXECUTE FUNCTION api_keys_private.record_event()',
        'enabled'
      ]),
      ('trigger', 'api_keys_record_creation on api_keys_private.api_keys', array[
        'CREATE TRIGGER api_keys_record_creation AFTER INSERT ON api_keys_private.api_keys FOR EACH ROW EXECUTE FUNCTION api_keys_private.record_event()',
        'enabled'
      ]),
      ('trigger', 'api_keys_scopes_limit on api_keys_private.api_keys', array[
        'CREATE TRIGGER api_keys_scopes_limit BEFORE INSERT OR UPDATE OF scopes ON api_keys_private.api_keys FOR EACH ROW WHEN (((
        CASE jsonb_typeof(new.scopes)
            WHEN ''array''::text THEN jsonb_array_length(new.scopes)
            ELSE NULL::integer
        END > 100) OR (new.scopes @? ''$[*].*?(@ like_regex "^.{255}." flag "s")''::jsonpath))) EXECUTE FUNCTION audiencelab_private.enforce_limit(''scopes'', ''must have at most 100 elements, with values of at most 255 characters'')',
        'enabled'
      ]),
      ('trigger', 'delete_partial_sums_enrichment_tracking on public.enrichment_tracking', array[
        'CREATE TRIGGER delete_partial_sums_enrichment_tracking AFTER DELETE ON public.enrichment_tracking FOR EACH ROW EXECUTE FUNCTION enrichment_private.delete_partial_sums()',
        'enabled'
      ]),
      ('trigger', 'enrichment_tracking_completed_at_limit on public.enrichment_tracking', array[
        'CREATE TRIGGER enrichment_tracking_completed_at_limit BEFORE INSERT OR UPDATE OF completed_at ON public.enrichment_tracking FOR EACH ROW WHEN (((new.completed_at < ''0001-01-01 00:00:00+00''::timestamp with time zone) OR (new.completed_at >= ''10000-01-01 00:00:00+00''::timestamp with time zone))) EXECUTE FUNCTION audiencelab_private.enforce_limit(''completed_at'', ''must be in the years 1 to 9999'')',
        'enabled'
      ]),
      ('trigger', 'enrichment_tracking_enrichment_fields_limit on public.enrichment_tracking', array[
        'CREATE TRIGGER enrichment_tracking_enrichment_fields_limit BEFORE INSERT OR UPDATE OF enrichment_fields ON public.enrichment_tracking FOR EACH ROW WHEN (((octet_length((new.enrichment_fields)::text) > 255) AND audiencelab_private.exceeds_texts_limit(new.enrichment_fields))) EXECUTE FUNCTION audiencelab_private.enforce_limit(''enrichment_fields'', ''must have at most 1,000 elements of at most 255 characters'')',
        'enabled'
      ]),
      ('trigger', 'enrichment_tracking_failed_records_limit on public.enrichment_tracking', array[
        'CREATE TRIGGER enrichment_tracking_failed_records_limit BEFORE INSERT OR UPDATE OF failed_records ON public.enrichment_tracking FOR EACH ROW WHEN ((new.failed_records < 0)) EXECUTE FUNCTION audiencelab_private.enforce_limit(''failed_records'', ''must be 0 or more'')',
        'enabled'
      ]),
      ('trigger', 'enrichment_tracking_metadata_limit on public.enrichment_tracking', array[
        'CREATE TRIGGER enrichment_tracking_metadata_limit BEFORE INSERT OR UPDATE OF metadata ON public.enrichment_tracking FOR EACH ROW WHEN (((octet_length((new.metadata)::text) > 200) AND audiencelab_private.exceeds_json_limit(new.metadata))) EXECUTE FUNCTION audiencelab_private.enforce_limit(''metadata'', ''must have at most 262,144 bytes as text, 100 levels, and numbers in the range of a double'')',
        'enabled'
      ]),
      ('trigger', 'enrichment_tracking_processed_records_limit on public.enrichment_tracking', array[
        'CREATE TRIGGER enrichment_tracking_processed_records_limit BEFORE INSERT OR UPDATE OF processed_records ON public.enrichment_tracking FOR EACH ROW WHEN ((new.processed_records < 0)) EXECUTE FUNCTION audiencelab_private.enforce_limit(''processed_records'', ''must be 0 or more'')',
        'enabled'
      ]),
      ('trigger', 'enrichment_tracking_started_at_limit on public.enrichment_tracking', array[
        'CREATE TRIGGER enrichment_tracking_started_at_limit BEFORE INSERT OR UPDATE OF started_at ON public.enrichment_tracking FOR EACH ROW WHEN (((new.started_at < ''0001-01-01 00:00:00+00''::timestamp with time zone) OR (new.started_at >= ''10000-01-01 00:00:00+00''::timestamp with time zone))) EXECUTE FUNCTION audiencelab_private.enforce_limit(''started_at'', ''must be in the years 1 to 9999'')',
        'enabled'
      ]),
      ('trigger', 'enrichment_tracking_total_records_limit on public.enrichment_tracking', array[
        'CREATE TRIGGER enrichment_tracking_total_records_limit BEFORE INSERT OR UPDATE OF total_records ON public.enrichment_tracking FOR EACH ROW WHEN ((new.total_records < 0)) EXECUTE FUNCTION audiencelab_private.enforce_limit(''total_records'', ''must be 0 or more'')',
        'enabled'
      ]),
      ('trigger', 'keep_counters_enrichment_tracking on public.enrichment_tracking', array[
        'CREATE TRIGGER keep_counters_enrichment_tracking BEFORE UPDATE OF processed_records, failed_records ON public.enrichment_tracking FOR EACH ROW WHEN (((new.processed_records < old.processed_records) OR (new.failed_records < old.failed_records))) EXECUTE FUNCTION enrichment_private.keep_counters()',
        'enabled'
      ]),
      ('trigger', 'keep_identity_enrichment_tracking on public.enrichment_tracking', array[
        'CREATE TRIGGER keep_identity_enrichment_tracking BEFORE UPDATE OF id, account_id, created_by ON public.enrichment_tracking FOR EACH ROW WHEN (((new.id <> old.id) OR (new.account_id <> old.account_id) OR (new.created_by <> old.created_by))) EXECUTE FUNCTION audiencelab_private.keep_identity()',
        'enabled'
      ]),
      ('trigger', 'keep_identity_segments on public.segments', array[
        'CREATE TRIGGER keep_identity_segments BEFORE UPDATE OF id, account_id, created_by ON public.segments FOR EACH ROW WHEN (((new.id <> old.id) OR (new.account_id <> old.account_id) OR (new.created_by <> old.created_by))) EXECUTE FUNCTION audiencelab_private.keep_identity()',
        'enabled'
      ]),
      ('trigger', 'segments_custom_columns_limit on public.segments', array[
        'CREATE TRIGGER segments_custom_columns_limit BEFORE INSERT OR UPDATE OF custom_columns ON public.segments FOR EACH ROW WHEN (((octet_length((new.custom_columns)::text) > 200) AND audiencelab_private.exceeds_json_limit(new.custom_columns))) EXECUTE FUNCTION audiencelab_private.enforce_limit(''custom_columns'', ''must have at most 262,144 bytes as text, 100 levels, and numbers in the range of a double'')',
        'enabled'
      ]),
      ('trigger', 'segments_description_limit on public.segments', array[
        'CREATE TRIGGER segments_description_limit BEFORE INSERT OR UPDATE OF description ON public.segments FOR EACH ROW WHEN ((length(new.description) > 10000)) EXECUTE FUNCTION audiencelab_private.enforce_limit(''description'', ''must have at most 10,000 characters'')',
        'enabled'
      ]),
      ('trigger', 'segments_enrichment_fields_limit on public.segments', array[
        'CREATE TRIGGER segments_enrichment_fields_limit BEFORE INSERT OR UPDATE OF enrichment_fields ON public.segments FOR EACH ROW WHEN (((octet_length((new.enrichment_fields)::text) > 255) AND audiencelab_private.exceeds_texts_limit(new.enrichment_fields))) EXECUTE FUNCTION audiencelab_private.enforce_limit(''enrichment_fields'', ''must have at most 1,000 elements of at most 255 characters'')',
        'enabled'
      ]),
      ('trigger', 'segments_filters_limit on public.segments', array[
        'CREATE TRIGGER segments_filters_limit BEFORE INSERT OR UPDATE OF filters ON public.segments FOR EACH ROW WHEN (((octet_length((new.filters)::text) > 200) AND audiencelab_private.exceeds_json_limit(new.filters))) EXECUTE FUNCTION audiencelab_private.enforce_limit(''filters'', ''must have at most 262,144 bytes as text, 100 levels, and numbers in the range of a double'')',
        'enabled'
      ]),
      ('trigger', 'segments_name_limit on public.segments', array[
        'CREATE TRIGGER segments_name_limit BEFORE INSERT OR UPDATE OF name ON public.segments FOR EACH ROW WHEN ((length(new.name) > 255)) EXECUTE FUNCTION audiencelab_private.enforce_limit(''name'', ''must have at most 255 characters'')',
        'enabled'
      ]),
      ('trigger', 'segments_source_id_limit on public.segments', array[
        'CREATE TRIGGER segments_source_id_limit BEFORE INSERT OR UPDATE OF source_id ON public.segments FOR EACH ROW WHEN ((length(new.source_id) > 1000)) EXECUTE FUNCTION audiencelab_private.enforce_limit(''source_id'', ''must have at most 1,000 characters'')',
        'enabled'
      ]),
      ('trigger', 'segments_tags_limit on public.segments', array[
        'CREATE TRIGGER segments_tags_limit BEFORE INSERT OR UPDATE OF tags ON public.segments FOR EACH ROW WHEN (((octet_length((new.tags)::text) > 255) AND audiencelab_private.exceeds_texts_limit(new.tags))) EXECUTE FUNCTION audiencelab_private.enforce_limit(''tags'', ''must have at most 1,000 elements of at most 255 characters'')',
        'enabled'
      ]),
      ('trigger', 'set_server_columns_enrichment_tracking on public.enrichment_tracking', array[
        'CREATE TRIGGER set_server_columns_enrichment_tracking BEFORE INSERT ON public.enrichment_tracking FOR EACH ROW EXECUTE FUNCTION audiencelab_private.set_server_columns()',
        'enabled'
      ]),
      ('trigger', 'set_server_columns_segments on public.segments', array[
        'CREATE TRIGGER set_server_columns_segments BEFORE INSERT ON public.segments FOR EACH ROW EXECUTE FUNCTION audiencelab_private.set_server_columns()',
        'enabled'
      ]),
      ('trigger', 'set_timestamps_enrichment_tracking on public.enrichment_tracking', array[
        'CREATE TRIGGER set_timestamps_enrichment_tracking BEFORE UPDATE ON public.enrichment_tracking FOR EACH ROW EXECUTE FUNCTION public.trigger_set_timestamps()',
        'enabled'
      ]),
      ('trigger', 'set_timestamps_segments on public.segments', array[
        'CREATE TRIGGER set_timestamps_segments BEFORE UPDATE ON public.segments FOR EACH ROW EXECUTE FUNCTION public.trigger_set_timestamps()',
        'enabled'
      ]),
      ('trigger', 'truncate_partial_sums_enrichment_tracking on public.enrichment_tracking', array[
        'CREATE TRIGGER truncate_partial_sums_enrichment_tracking AFTER TRUNCATE ON public.enrichment_tracking FOR EACH STATEMENT EXECUTE FUNCTION enrichment_private.delete_partial_sums()',
        'enabled'
      ]),
      ('type', 'public.api_key_response', array[
        'account_id uuid',
        'allowed_ips cidr[]',
        'created_at timestamp with time zone',
        'created_by uuid',
        'disabled_at timestamp with time zone',
        'expires_at timestamp with time zone',
        'id uuid',
        'is_active boolean',
        'key_prefix text',
        'last_used_at timestamp with time zone',
        'metadata jsonb',
        'name text',
        'scopes jsonb',
        'successor_id uuid'
      ]),
      ('type', 'public.api_key_usage_log_response', array[
        'error text',
        'error_code text',
        'log_id uuid',
        'success boolean',
        'timestamp timestamp with time zone'
      ]),
      ('type', 'public.authenticate_api_key_response', array[
        'account_id uuid',
        'api_key_id uuid',
        'code text',
        'created_by uuid',
        'expires_at timestamp with time zone',
        'ip_restricted boolean',
        'metadata jsonb',
        'name text',
        'scopes jsonb',
        'valid boolean'
      ]),
      ('type', 'public.create_api_key_response', array[
        'account_id uuid',
        'created_at timestamp with time zone',
        'expires_at timestamp with time zone',
        'id uuid',
        'key text',
        'key_prefix text',
        'name text',
        'scopes jsonb'
      ]),
      ('type', 'public.verify_api_key_response', array[
        'account_id uuid',
        'api_key_id uuid',
        'error text',
        'valid boolean'
      ]),
      ('view', 'api_keys_private.bcrypt_api_keys', array[
        'as SELECT api_key.id, api_key.account_id, api_key.name, api_key.key_prefix, api_key.created_by, api_key.created_at, api_key.last_used_at, api_key.expires_at FROM (api_keys_private.api_keys api_key JOIN api_keys_private.live_api_keys live ON ((live.id = api_key.id))) WHERE (api_key.key_hash ~~ ''$2a$%''::text);'
      ]),
      ('view', 'api_keys_private.live_api_keys', array[
        'as SELECT id, account_id, key_prefix, key_hash, scopes, allowed_ips FROM api_keys_private.api_keys WHERE (is_active AND (disabled_at IS NULL) AND ((expires_at IS NULL) OR (expires_at > now())));'
      ])
  )
  select
    coalesce(expected.kind, actual.kind),
    coalesce(expected.object, actual.object),
    case
      when actual.facts is null then 'missing'
      when expected.facts is null then format('unexpected: %s', array_to_string(actual.facts, '; '))
      when actual.facts = expected.facts then 'ok'
      else concat_ws(
        '; ',
        'expected ' || (
          select string_agg(format('<%s>', item), ', ')
          from unnest(expected.facts) as item
          where item <> all (actual.facts)
        ),
        'found ' || (
          select string_agg(format('<%s>', item), ', ')
          from unnest(actual.facts) as item
          where item <> all (expected.facts)
        )
      )
    end
  from expected
  full join actual on actual.kind = expected.kind and actual.object = expected.object;
$verification$;

select kind, object, status
from pg_temp.audiencelab_verification()
order by status = 'ok', kind, object;

do $verdict$
declare
  v_differences text;
begin
  select string_agg(format(E'\n- %s %s: %s', kind, object, status), '' order by kind, object)
  into v_differences
  from pg_temp.audiencelab_verification()
  where status <> 'ok';
  if v_differences is not null then
    raise exception using message = 'the database differs from the schema that the migrations create:' || v_differences;
  end if;
end;
$verdict$;

-- The SQL editor shows the last result only. psql has already printed the same rows.
select kind, object, status
from pg_temp.audiencelab_verification()
where current_setting('application_name') <> 'psql'
order by kind, object;
