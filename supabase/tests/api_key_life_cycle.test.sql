-- The life cycle of an API key: members change, disable and rotate it, backends authenticate it, and all changes are recorded.

begin;

select plan(26);

create function pg_temp.id(p_name text)
returns uuid
language sql
immutable
as $$
  select md5(p_name)::uuid;
$$;

-- Sets the role and the claims as PostgREST does for a request. `reset role` resets the role.
create function pg_temp.act_as(p_role text, p_subject uuid default null)
returns void
language sql
as $$
  select
    set_config('role', p_role, true),
    set_config('request.jwt.claims', json_build_object('role', p_role, 'sub', p_subject)::text, true);
$$;

grant execute on function pg_temp.id(text), pg_temp.act_as(text, uuid) to public;

-- Ada owns the account "engines". Mallory owns another account.
insert into auth.users (id) values (pg_temp.id('ada')), (pg_temp.id('mallory'));
insert into public.accounts (id, name, primary_owner_user_id)
values
  (pg_temp.id('engines'), 'Analytical Engines', pg_temp.id('ada')),
  (pg_temp.id('elsewhere'), 'Elsewhere', pg_temp.id('mallory'));
insert into public.accounts_memberships (user_id, account_id, account_role)
values
  (pg_temp.id('ada'), pg_temp.id('engines'), 'owner'),
  (pg_temp.id('mallory'), pg_temp.id('elsewhere'), 'owner')
on conflict (user_id, account_id) do nothing;

-- A back office issues a key in the name of Ada.
select pg_temp.act_as('service_role');
create temporary table issued as
select * from public.issue_api_key(
  pg_temp.id('engines'), pg_temp.id('ada'), 'CI', '[{"entity_type": "*", "entity_id": "*", "action": "read"}]',
  now() + interval '90 days'
);
grant select on issued to public;
select is(
  (select created_by from public.get_api_key((select id from issued))),
  pg_temp.id('ada'),
  'the creator of an issued key is the member'
);
select throws_ok(
  $$ select public.issue_api_key(pg_temp.id('engines'), pg_temp.id('mallory'), 'CI', '[]') $$,
  '22023',
  null,
  'a key is not issued in the name of a non-member'
);
select row_eq(
  $$
    select valid, code, api_key_id, account_id, name, created_by, ip_restricted
    from public.authenticate_api_key((select key from issued))
  $$,
  row(
    true, 'valid'::text, (select id from issued), pg_temp.id('engines'), 'CI'::text, pg_temp.id('ada'), false
  ),
  'a backend authenticates a key and learns whose it is'
);
select is(
  (select code from public.authenticate_api_key('sk_unknown')),
  'not_found',
  'an unknown key is not found'
);

-- Mallory cannot do anything with it.
select pg_temp.act_as('authenticated', pg_temp.id('mallory'));
select throws_ok(
  $$ select public.get_api_key((select id from issued)) $$,
  'PT404',
  'the API key does not exist, or you are not a member of its account',
  'a non-member cannot read a key'
);
select throws_ok(
  $$ select public.update_api_key((select id from issued), '{"name": "mine"}') $$,
  'PT404',
  null,
  'a non-member cannot change a key'
);
select throws_ok(
  $$ select public.rotate_api_key((select id from issued)) $$,
  'PT404',
  null,
  'a non-member cannot rotate a key'
);
select throws_ok(
  $$ select public.authenticate_api_key((select key from issued)) $$,
  '42501',
  null,
  'a user cannot authenticate keys'
);
select throws_ok(
  $$ select * from public.list_api_key_events(pg_temp.id('engines')) $$,
  '42501',
  null,
  'a non-member cannot read the audit trail'
);

-- Ada changes the key.
select pg_temp.act_as('authenticated', pg_temp.id('ada'));
select row_eq(
  $$
    select name, metadata, allowed_ips
    from public.update_api_key(
      (select id from issued), '{"name": "Build", "metadata": {"plan": "pro"}, "allowed_ips": ["::ffff:192.0.2.0/120"]}'
    )
  $$,
  row('Build'::text, '{"plan": "pro"}'::jsonb, '{192.0.2.0/24}'::cidr[]),
  'a member changes fields of a key'
);
select throws_ok(
  $$ select public.update_api_key((select id from issued), '{"key_hash": ""}') $$,
  '22023',
  null,
  'update_api_key raises 22023 for an unknown field'
);
select pg_temp.act_as('service_role');
select is(
  (select code from public.authenticate_api_key((select key from issued), '::ffff:192.0.2.7')),
  'valid',
  'a key with networks is valid from an address in one of them'
);
select is(
  (select code from public.authenticate_api_key((select key from issued), '198.51.100.1')),
  'ip_not_allowed',
  'a key with networks is not valid from another address'
);
select is(
  (select valid from public.verify_api_key((select key from issued))),
  false,
  'verify_api_key does not accept a key with networks'
);

-- Ada disables the key for a while.
select pg_temp.act_as('authenticated', pg_temp.id('ada'));
select isnt(
  (select disabled_at from public.disable_api_key((select id from issued))),
  null,
  'a member disables a key'
);
select throws_ok(
  $$ select public.rotate_api_key((select id from issued)) $$,
  'PT409',
  'the API key is disabled',
  'a disabled key cannot be rotated'
);
select pg_temp.act_as('service_role');
select is(
  (select code from public.authenticate_api_key((select key from issued), '192.0.2.7')),
  'disabled',
  'a disabled key is not valid'
);
select pg_temp.act_as('authenticated', pg_temp.id('ada'));
select is(
  (select disabled_at from public.enable_api_key((select id from issued))),
  null,
  'a member enables a key'
);

-- Ada rotates the key.
create temporary table successor as
select * from public.rotate_api_key((select id from issued), interval '12 hours');
grant select on successor to public;
select row_eq(
  $$ select name, scopes, expires_at from successor $$,
  row('Build'::text, (select scopes from issued), now() + interval '90 days'),
  'the successor has the name, the scopes and the lifetime of the key'
);
select row_eq(
  $$ select successor_id, expires_at from public.get_api_key((select id from issued)) $$,
  row((select id from successor), now() + interval '12 hours'),
  'the rotated key names its successor and expires after the overlap'
);
select throws_ok(
  $$ select public.rotate_api_key((select id from issued)) $$,
  'PT409',
  format('the API key was already rotated: its successor is %s', (select id from successor)),
  'a key is rotated once'
);
select throws_ok(
  $$ select public.rotate_api_key((select id from successor), interval '31 days') $$,
  '22023',
  null,
  'the overlap has a limit'
);

-- Ada revokes the key, permanently.
select public.revoke_api_key((select id from issued));
select throws_ok(
  $$ select public.enable_api_key((select id from issued)) $$,
  'PT409',
  null,
  'a revoked key cannot be enabled'
);

-- The audit trail.
select results_eq(
  $$
    select event, actor_type, actor_id
    from public.list_api_key_events(pg_temp.id('engines'), (select id from issued))
  $$,
  $$
    values
      ('revoke', 'user', pg_temp.id('ada')),
      ('rotate', 'user', pg_temp.id('ada')),
      ('enable', 'user', pg_temp.id('ada')),
      ('disable', 'user', pg_temp.id('ada')),
      ('update', 'user', pg_temp.id('ada')),
      ('create', 'service', null)
  $$,
  'the audit trail has each change and who made it, newest first'
);
select pg_temp.act_as('service_role');
select throws_ok(
  $$ delete from api_keys_private.api_key_events $$,
  '42501',
  null,
  'the service role cannot delete events'
);
reset role;
delete from public.accounts where id = pg_temp.id('engines');
select pg_temp.act_as('service_role');
select is(
  (select count(*) from public.list_api_key_events(pg_temp.id('engines'), (select id from issued))),
  6::bigint,
  'the audit trail of a deleted account is kept'
);
reset role;

select * from finish();

rollback;
