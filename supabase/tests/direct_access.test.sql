-- Direct access: a request with the header x-api-key runs as the API key.

begin;

select plan(15);

create function pg_temp.id(p_name text)
returns uuid
language sql
immutable
as $$
  select md5(p_name)::uuid;
$$;

-- Begins a request of a role with these headers, as PostgREST does. `reset role` ends it.
create function pg_temp.request(p_headers json, p_role text default 'anon')
returns void
language plpgsql
as $$
begin
  perform
    set_config('request.jwt.claims', json_build_object('role', p_role)::text, true),
    set_config('request.headers', p_headers::text, true),
    set_config('role', p_role, true);
  perform api_keys_direct.pre_request();
end;
$$;

create function pg_temp.with_key(p_name text)
returns json
language sql
as $$
  select json_build_object('x-api-key', 'sk_' || p_name);
$$;

grant execute on function pg_temp.id(text), pg_temp.request(json, text), pg_temp.with_key(text) to public;

-- Ada owns the account "engines", with one segment and a key for each case. The text of each key is sk_ and its name.
insert into auth.users (id) values (pg_temp.id('ada'));
insert into public.accounts (id, name, primary_owner_user_id)
values (pg_temp.id('engines'), 'Analytical Engines', pg_temp.id('ada'));
insert into public.segments (id, account_id, name, source_type, source_id, created_by)
values (pg_temp.id('one'), pg_temp.id('engines'), 'one', 'audience', 'a1', pg_temp.id('ada'));
insert into api_keys_private.api_keys
  (id, account_id, name, key_prefix, key_hash, scopes, created_by, is_active, disabled_at, expires_at, allowed_ips)
select
  pg_temp.id(name),
  pg_temp.id('engines'),
  name,
  'sk_test',
  encode(sha256(convert_to('sk_' || name, 'UTF8')), 'hex'),
  '[{"entity_type": "segment", "entity_id": "*", "action": "read"}]',
  pg_temp.id('ada'),
  name <> 'revoked',
  case name when 'disabled' then now() end,
  case name when 'expired' then now() - interval '1 day' end,
  case name when 'restricted' then '{192.0.2.0/24}'::cidr[] end
from unnest('{live,revoked,disabled,expired,restricted}'::text[]) as name;

-- With a live key.
select pg_temp.request(pg_temp.with_key('live'));
select is(current_user::text, 'api_key', 'the request runs as role api_key');
select is(current_setting('statement_timeout'), '8s', 'with the statement timeout of requests');
select is(public.get_api_key_account_id(), pg_temp.id('engines'), 'as the key of its account');
select results_eq('select name from public.segments', $$ values ('one') $$, 'it reads what its scopes cover');
select throws_ok(
  format('select * from public.list_api_keys(%L)', pg_temp.id('engines')),
  '42501',
  null,
  'it may not call functions of members'
);
reset role;

-- With any other text.
select throws_ok(
  format('select pg_temp.request(pg_temp.with_key(%L))', name), 'PT401', 'Invalid API key', name || ' is refused'
)
from unnest('{revoked,disabled,expired,restricted,unknown}'::text[]) as name;

-- Beside a token.
select throws_ok(
  $$ select pg_temp.request(pg_temp.with_key('live'), 'service_role') $$,
  'PT400',
  'the request has both an API key and a token',
  'a key beside a token is refused'
);

-- Without a key.
select pg_temp.request('{"accept": "*/*"}');
select is(current_user::text, 'anon', 'a request without a key keeps its role');
reset role;

-- The switch.
select is(api_keys_direct.configured_function(), '', 'direct access is disabled by default');
select api_keys_direct.enable();
select is(api_keys_direct.configured_function(), 'api_keys_direct.pre_request', 'enable() sets the pre-request function');
select api_keys_direct.disable();
select is(api_keys_direct.configured_function(), '', 'disable() resets it');

select * from finish();

rollback;
