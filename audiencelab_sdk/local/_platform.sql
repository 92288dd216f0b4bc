-- The roles, schemas and privileges of a new hosted Supabase project, before its first migration. A superuser applies it to
-- a database, and can apply it again.

set client_min_messages = warning;

do $roles$
begin
  if to_regrole('anon') is null then
    create role anon nologin;
  end if;
  if to_regrole('authenticated') is null then
    create role authenticated nologin;
  end if;
  if to_regrole('service_role') is null then
    create role service_role nologin bypassrls;
  end if;
  -- The REST API logs in as authenticator, which has no privileges, and sets the role of each request.
  if to_regrole('authenticator') is null then
    create role authenticator login noinherit password 'postgres';
  end if;
  -- Not a superuser, as on hosted Supabase, so that a migration that requires one fails on the embedded stack, too.
  if to_regrole('postgres') is null then
    create role postgres login createrole createdb bypassrls replication password 'postgres';
  end if;
  execute format('alter database %I owner to postgres', current_database());
end;
$roles$;

grant anon, authenticated, service_role to authenticator;
grant anon, authenticated, service_role, authenticator to postgres with admin option;
grant pg_monitor, pg_signal_backend to postgres;
-- On hosted Supabase, postgres may set PostgREST's parameters.
grant set on parameter pgrst.db_pre_request to postgres;
alter role authenticator set statement_timeout = '8s';
alter role postgres set search_path = "$user", public, extensions;

create schema if not exists extensions;
grant usage on schema extensions to public;
grant all on schema extensions to postgres;
create extension if not exists pgcrypto with schema extensions;

grant usage on schema public to postgres, anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  grant all on tables to postgres, anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  grant all on functions to postgres, anon, authenticated, service_role;
alter default privileges for role postgres in schema public
  grant all on sequences to postgres, anon, authenticated, service_role;

create schema if not exists auth;
grant usage on schema auth to anon, authenticated, service_role, postgres;

create table if not exists auth.users (
  id uuid primary key default gen_random_uuid(),
  email text,
  raw_app_meta_data jsonb,
  raw_user_meta_data jsonb,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create unique index if not exists users_email_key on auth.users (email);
grant select, insert, update, delete, references on auth.users to postgres;

-- The claims of the request's token. PostgREST stores them in request.jwt.claims; older versions used one setting for each
-- claim.
create or replace function auth.jwt()
returns jsonb
language sql
stable
as $function$
  select coalesce(
    nullif(current_setting('request.jwt.claim', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')
  )::jsonb;
$function$;

create or replace function auth.uid()
returns uuid
language sql
stable
as $function$
  select coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
  )::uuid;
$function$;

create or replace function auth.role()
returns text
language sql
stable
as $function$
  select coalesce(
    nullif(current_setting('request.jwt.claim.role', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'
  );
$function$;

grant execute on function auth.jwt(), auth.uid(), auth.role() to public;

do $realtime$
begin
  if not exists (select from pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
    alter publication supabase_realtime owner to postgres;
  end if;
end;
$realtime$;

-- The Supabase CLI records applied migrations and seeds here.
create schema if not exists supabase_migrations;
alter schema supabase_migrations owner to postgres;
create table if not exists supabase_migrations.schema_migrations (
  version text primary key,
  statements text[],
  name text
);
alter table supabase_migrations.schema_migrations owner to postgres;

create table if not exists supabase_migrations.seed_files (
  path text primary key,
  hash text not null
);
alter table supabase_migrations.seed_files owner to postgres;
