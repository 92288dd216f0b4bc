-- The key system as it was when customers first got keys: bcrypt hashes, functions without a search path.
do $$
begin
  if to_regrole('api_key') is null then
    create role api_key nologin noinherit;
  end if;
  if not pg_has_role('authenticator', 'api_key', 'member') then
    grant api_key to authenticator;
  end if;
end $$;
create schema if not exists api_keys_private;
grant usage on schema api_keys_private to authenticated, service_role;
create table if not exists api_keys_private.api_keys (
  id uuid primary key default gen_random_uuid(),
  account_id uuid not null,
  name text not null,
  key_prefix varchar(7) not null,
  key_hash text not null,
  scopes jsonb not null default '[]',
  expires_at timestamptz,
  created_at timestamptz not null default now(),
  last_used_at timestamptz,
  created_by uuid not null,
  is_active boolean not null default true
);
create table if not exists api_keys_private.api_key_logs (
  id uuid primary key default gen_random_uuid(),
  api_key_id uuid not null references api_keys_private.api_keys (id) on delete cascade,
  endpoint text not null,
  method text not null,
  status_code integer,
  ip_address text,
  user_agent text,
  timestamp timestamptz not null default now()
);
alter table api_keys_private.api_keys enable row level security;
alter table api_keys_private.api_key_logs enable row level security;
create policy "Accounts can read API Keys" on api_keys_private.api_keys
  for select to authenticated using (public.has_role_on_account(account_id));
grant select on api_keys_private.api_keys to authenticated;

create type public.create_api_key_response as (
  id uuid, name text, key text, key_prefix text, account_id uuid, scopes jsonb, expires_at timestamptz,
  created_at timestamptz
);
create type public.verify_api_key_response as (valid boolean, api_key_id uuid, account_id uuid, error text);
create type public.api_key_usage_log_response as (
  success boolean, log_id uuid, "timestamp" timestamptz, error text, error_code text
);

create function public.create_api_key(
  p_account_id uuid, p_name text, p_scopes jsonb, p_expires_at timestamptz default null
) returns public.create_api_key_response
language plpgsql security definer as $$
declare
  v_key text := 'sk_' || regexp_replace(encode(extensions.gen_random_bytes(32), 'base64'), '[^A-Za-z0-9]', '', 'g');
  v_row api_keys_private.api_keys;
begin
  if not public.has_role_on_account(p_account_id) then
    raise exception 'no access';
  end if;
  insert into api_keys_private.api_keys (account_id, name, key_prefix, key_hash, scopes, expires_at, created_by)
  values (p_account_id, p_name, left(v_key, 7), extensions.crypt(v_key, extensions.gen_salt('bf', 4)), p_scopes,
    p_expires_at, auth.uid())
  returning * into v_row;
  return row(v_row.id, v_row.name, v_key, v_row.key_prefix, v_row.account_id, v_row.scopes, v_row.expires_at,
    v_row.created_at)::public.create_api_key_response;
end $$;
create function public.verify_api_key(p_api_key text) returns public.verify_api_key_response
language plpgsql security definer as $$
declare v_row api_keys_private.api_keys;
begin
  for v_row in select * from api_keys_private.api_keys where is_active loop
    if v_row.key_hash = extensions.crypt(p_api_key, v_row.key_hash) then
      return row(true, v_row.id, v_row.account_id, null::text)::public.verify_api_key_response;
    end if;
  end loop;
  return row(false, null::uuid, null::uuid, 'Invalid API key'::text)::public.verify_api_key_response;
end $$;
create function public.log_api_key_usage(
  p_api_key_id uuid, p_endpoint text, p_method text, p_status_code integer, p_ip_address text, p_user_agent text
) returns public.api_key_usage_log_response
language plpgsql security definer as $$
declare v_id uuid;
begin
  insert into api_keys_private.api_key_logs (api_key_id, endpoint, method, status_code, ip_address, user_agent)
  values (p_api_key_id, p_endpoint, p_method, p_status_code, p_ip_address, p_user_agent) returning id into v_id;
  update api_keys_private.api_keys set last_used_at = now() where id = p_api_key_id;
  return row(true, v_id, now(), null::text, null::text)::public.api_key_usage_log_response;
end $$;
create or replace function public.revoke_api_key(p_api_key_id uuid) returns boolean
language plpgsql security definer as $$
begin
  update api_keys_private.api_keys set is_active = false where id = p_api_key_id;
  return found;
end $$;
create or replace function public.get_api_key_account_id() returns uuid
language sql security definer as $$ select account_id from api_keys_private.api_keys where id = auth.uid() $$;
grant execute on function public.verify_api_key(text) to authenticated, service_role, api_key;
