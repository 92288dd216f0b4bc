-- API keys: members create, list and revoke them; backends verify them and log their use.

begin;

select plan(24);

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

-- Ada creates a key.
select pg_temp.act_as('authenticated', pg_temp.id('ada'));
create temporary table issued as
select * from public.create_api_key(pg_temp.id('engines'), 'CI', '[{"entity_type": "*", "entity_id": "*", "action": "read"}]');
grant select on issued to public;

select matches((select key from issued), '^sk_[A-Za-z0-9]{46}$', 'a key is sk_ and 46 letters and digits');
select is((select key_prefix from issued), (select left(key, 7) from issued), 'the prefix is the first seven characters of the key');
select throws_ok(
  $$ select public.create_api_key(pg_temp.id('engines'), ' ', '[]') $$,
  '22023',
  null,
  'create_api_key raises 22023 for a blank name'
);
select throws_ok(
  $$ select public.create_api_key(pg_temp.id('engines'), 'CI', '[{"action": "read"}]') $$,
  '22023',
  null,
  'create_api_key raises 22023 for a scope without all three fields'
);
select throws_ok(
  $$ select public.create_api_key(pg_temp.id('engines'), 'CI', '[]', now() - interval '1 second') $$,
  '22023',
  null,
  'create_api_key raises 22023 for an expiry in the past'
);

reset role;
select is(
  (select to_jsonb(stored)::text like '%' || issued.key || '%'
   from api_keys_private.api_keys as stored join issued using (id)),
  false,
  'the key itself is not stored'
);

-- Mallory is a member of another account only.
select pg_temp.act_as('authenticated', pg_temp.id('mallory'));
select throws_ok(
  $$ select public.create_api_key(pg_temp.id('engines'), 'mine', '[]') $$,
  '42501',
  null,
  'a non-member cannot create a key'
);
select throws_ok(
  $$ select * from public.list_api_keys(pg_temp.id('engines')) $$,
  '42501',
  null,
  'a non-member cannot list keys'
);
select throws_ok(
  $$ select public.revoke_api_key((select id from issued)) $$,
  '42501',
  null,
  'a non-member cannot revoke a key'
);
select throws_ok(
  $$ select public.verify_api_key((select key from issued)) $$,
  '42501',
  null,
  'a user cannot verify keys'
);
select throws_ok(
  $$ select * from api_keys_private.api_keys $$,
  '42501',
  null,
  'a user cannot read the table'
);
select pg_temp.act_as('anon');
select throws_ok(
  $$ select public.create_api_key(pg_temp.id('engines'), 'mine', '[]') $$,
  '42501',
  null,
  'anon cannot create a key'
);

-- A backend verifies a key and logs its use.
select pg_temp.act_as('service_role');
select row_eq(
  $$ select * from public.verify_api_key((select key from issued)) $$,
  row(true, (select id from issued), pg_temp.id('engines'), null)::public.verify_api_key_response,
  'a live key is valid'
);
select row_eq(
  $$ select * from public.verify_api_key('sk_unknown') $$,
  row(false, null, null, 'Invalid API key')::public.verify_api_key_response,
  'an unknown key is invalid'
);
select is(
  (select success from public.log_api_key_usage((select id from issued), '/v1/segments', 'GET', 200, null, null)),
  true,
  'a use is logged'
);
select is(
  (select error_code from public.log_api_key_usage(pg_temp.id('no key'), '/v1/segments', 'GET', 200, null, null)),
  '23503',
  'an error while logging is part of the result'
);
select results_eq(
  $$
    select event_index, success, error_code
    from public.log_api_key_usage_batch(jsonb_build_array(
      jsonb_build_object('api_key_id', (select id from issued), 'endpoint', '/v1/segments', 'method', 'GET'),
      jsonb_build_object('api_key_id', (select id from issued), 'method', 'GET')
    ))
  $$,
  $$ values (0, true, null), (1, false, '23502') $$,
  'a failed event does not affect the others'
);

-- Ada lists the keys of her account and revokes one.
select pg_temp.act_as('authenticated', pg_temp.id('ada'));
select results_eq(
  $$ select name, is_active, last_used_at is not null from public.list_api_keys(pg_temp.id('engines')) $$,
  $$ values ('CI', true, true) $$,
  'a member lists the keys of the account, with last_used_at'
);
select is(public.revoke_api_key((select id from issued)), true, 'a member revokes a key');
select pg_temp.act_as('service_role');
select is(
  (select error from public.verify_api_key((select key from issued))),
  'Invalid API key',
  'a revoked key has the same error as an unknown key'
);

-- Expiry, and deletion of the account.
reset role;
update api_keys_private.api_keys set is_active = true, expires_at = now() where id = (select id from issued);
select pg_temp.act_as('service_role');
select is((select valid from public.verify_api_key((select key from issued))), false, 'an expired key is invalid');
reset role;
update api_keys_private.api_keys set expires_at = null where id = (select id from issued);
select pg_temp.act_as('service_role');
select is((select valid from public.verify_api_key((select key from issued))), true, 'a key without an expiry is valid');
reset role;
delete from public.accounts where id = pg_temp.id('engines');
select pg_temp.act_as('service_role');
select is((select valid from public.verify_api_key((select key from issued))), false, 'a key of a deleted account is invalid');
reset role;
select is_empty(
  $$ select from api_keys_private.api_key_logs where api_key_id = (select id from issued) $$,
  'the usage log of a deleted key is deleted'
);

select * from finish();

rollback;
