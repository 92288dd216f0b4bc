-- A stand-in for V3's base schema, for local stacks and tests: the accounts, roles and memberships that the later
-- migrations require. It does nothing if public.accounts exists, as in every V3 project, or if schema public contains any
-- other table or view.

begin;

set local search_path = '';
set local lock_timeout = '3s';
set local statement_timeout = '60s';

do $stand_in$
begin
  if to_regclass('public.accounts') is not null then
    raise notice 'public.accounts exists, so the stand-in for V3''s base schema is not created';
    return;
  end if;
  -- Another project, to which the migrations were pushed by mistake, is left unchanged.
  if exists (
    select from pg_class
    where relnamespace = 'public'::regnamespace
      and relkind in ('r', 'p', 'v', 'm')
      and not exists (select from pg_depend where classid = 'pg_class'::regclass and objid = pg_class.oid and deptype = 'e')
  ) then
    raise notice 'schema public contains other tables or views, so the stand-in for V3''s base schema is not created';
    return;
  end if;

  -- As in V3, anon has no usage of schema public, and PUBLIC cannot execute new functions. The default privilege of
  -- PUBLIC is global: revoking it "in schema" has no effect.
  revoke usage on schema public from public, anon;
  grant usage on schema public to authenticated, service_role;
  alter default privileges revoke execute on functions from public;

  create table public.accounts (
    id uuid primary key default gen_random_uuid(),
    name varchar(255) not null,
    slug text unique,
    email varchar(320) unique,
    is_personal_account boolean not null default false,
    primary_owner_user_id uuid not null references auth.users (id) on delete cascade,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
  );
  create index ix_accounts_primary_owner_user_id on public.accounts (primary_owner_user_id);
  comment on table public.accounts is 'Tenants: personal accounts and teams. Stand-in for V3''s own table.';

  create table public.roles (
    name varchar(50) primary key,
    hierarchy_level integer not null unique check (hierarchy_level > 0)
  );
  comment on table public.roles is 'Account roles. Level 1 is the highest. Stand-in for V3''s own table.';
  insert into public.roles (name, hierarchy_level) values ('owner', 1), ('member', 2);

  create table public.accounts_memberships (
    user_id uuid not null references auth.users (id) on delete cascade,
    account_id uuid not null references public.accounts (id) on delete cascade,
    account_role varchar(50) not null references public.roles (name),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (user_id, account_id)
  );
  create index ix_accounts_memberships_account_id on public.accounts_memberships (account_id);
  create index ix_accounts_memberships_account_role on public.accounts_memberships (account_role);
  comment on table public.accounts_memberships is 'Memberships of users in accounts. Stand-in for V3''s own table.';

  create function public.has_role_on_account(account_id uuid, account_role varchar(50) default null)
  returns boolean
  language sql
  stable
  -- Definer: policies call it for callers who cannot read other users' memberships. It checks the caller's own.
  security definer
  set search_path = pg_catalog, pg_temp
  as $function$
    select exists (
      select
      from public.accounts_memberships as membership
      where membership.user_id = (select auth.uid())
        and membership.account_id = has_role_on_account.account_id
        and (has_role_on_account.account_role is null
             or membership.account_role = has_role_on_account.account_role)
    );
  $function$;
  comment on function public.has_role_on_account(uuid, varchar) is
    'Returns whether the caller is a member of the account, with the account role if one is passed. Stand-in for V3''s own'
    ' function.';

  create function public.trigger_set_timestamps()
  returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
  as $function$
  begin
    new.created_at := old.created_at;
    new.updated_at := now();
    return new;
  end;
  $function$;
  comment on function public.trigger_set_timestamps() is
    'Trigger function, before update: sets updated_at and keeps created_at. Stand-in for V3''s own function.';

  alter table public.accounts enable row level security;
  alter table public.roles enable row level security;
  alter table public.accounts_memberships enable row level security;

  create policy accounts_read on public.accounts
    for select to authenticated
    using (
      primary_owner_user_id = (select auth.uid())
      or id = any (array(
        select membership.account_id
        from public.accounts_memberships as membership
        where membership.user_id = (select auth.uid())
      ))
    );
  create policy roles_read on public.roles
    for select to authenticated
    using (true);
  create policy accounts_memberships_read on public.accounts_memberships
    for select to authenticated
    using (user_id = (select auth.uid()));

  revoke all on public.accounts, public.roles, public.accounts_memberships from anon, authenticated, service_role;
  grant select on public.accounts, public.roles, public.accounts_memberships to authenticated;
  grant select, insert, update, delete on public.accounts, public.roles, public.accounts_memberships to service_role;

  revoke all on function public.has_role_on_account(uuid, varchar) from public, anon, authenticated, service_role;
  revoke all on function public.trigger_set_timestamps() from public, anon, authenticated, service_role;
  grant execute on function public.has_role_on_account(uuid, varchar) to authenticated, service_role;
end;
$stand_in$;

commit;
