-- Requests that run as an API key: they read and write what the scopes of the key cover, in its account only.

begin;

select plan(31);

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

insert into public.segments (id, account_id, name, source_type, source_id, created_by)
values
  (pg_temp.id('one'), pg_temp.id('engines'), 'one', 'audience', 'a1', pg_temp.id('ada')),
  (pg_temp.id('two'), pg_temp.id('engines'), 'two', 'audience', 'a1', pg_temp.id('ada')),
  (pg_temp.id('foreign'), pg_temp.id('elsewhere'), 'foreign', 'audience', 'a1', pg_temp.id('mallory'));
insert into public.enrichment_tracking (id, account_id, audience_id, enrichment_type, created_by)
values
  (pg_temp.id('job'), pg_temp.id('engines'), pg_temp.id('audience'), 'email', pg_temp.id('ada')),
  (pg_temp.id('foreign job'), pg_temp.id('elsewhere'), pg_temp.id('audience'), 'email', pg_temp.id('mallory'));

-- One key for each scope, named after it.
insert into api_keys_private.api_keys (id, account_id, name, key_prefix, key_hash, scopes, created_by)
select
  pg_temp.id(name),
  pg_temp.id('engines'),
  name,
  'sk_test',
  'hash of ' || name,
  jsonb_build_array(jsonb_build_object('entity_type', entity_type, 'entity_id', entity_id, 'action', action)),
  pg_temp.id('ada')
from (
  values
    ('reader', 'segment', '*', 'read'),
    ('reader of one', 'segment', pg_temp.id('one')::text, 'read'),
    ('worker', 'enrichment', '*', 'write'),
    ('editor', 'segment', '*', 'write'),
    ('editor of one', 'segment', pg_temp.id('one')::text, 'write'),
    ('auditor', '*', '*', 'read'),
    ('caretaker', '*', pg_temp.id('one')::text, '*'),
    ('root', '*', '*', '*')
) as key (name, entity_type, entity_id, action);

-- A scope for reading all segments.
select pg_temp.act_as('api_key', pg_temp.id('reader'));
select is(public.get_api_key_account_id(), pg_temp.id('engines'), 'get_api_key_account_id returns the account of the key');
select results_eq(
  $$ select name from public.segments order by name $$,
  $$ values ('one'), ('two') $$,
  'the key reads all segments of its account'
);
select is_empty($$ select from public.enrichment_tracking $$, 'the key reads no jobs');
select is_empty($$ update public.segments set name = 'x' returning id $$, 'the key cannot update segments');
select throws_ok($$ select * from public.list_api_keys(pg_temp.id('engines')) $$, '42501', null, 'the key cannot list API keys');
select throws_ok(
  $$ select public.report_enrichment_progress(pg_temp.id('job'), 'a', 1, 0) $$,
  'PT404',
  null,
  'the key cannot report progress'
);

select pg_temp.act_as('api_key', pg_temp.id('reader of one'));
select results_eq(
  $$ select name from public.segments $$,
  $$ values ('one') $$,
  'a scope for one segment covers only that segment'
);
select ok(public.has_scope('segment', pg_temp.id('one')::text, 'read'), 'has_scope is true for the segment in the scope');
select ok(not public.has_scope('segment', pg_temp.id('two')::text, 'read'), 'has_scope is false for another segment');
select ok(not public.has_scope('segment', pg_temp.id('one')::text, 'write'), 'has_scope is false for another action');

-- A scope for writing all jobs includes reading them.
select pg_temp.act_as('api_key', pg_temp.id('worker'));
select results_eq(
  $$ select id from public.enrichment_tracking $$,
  $$ values (pg_temp.id('job')) $$,
  'a scope for writing jobs includes reading them'
);
select is(
  (public.report_enrichment_progress(pg_temp.id('job'), 'a', 1, 0)).processed_records,
  1,
  'the key reports progress'
);
select lives_ok(
  $$ update public.enrichment_tracking set status = 'completed' where id = pg_temp.id('job') $$,
  'the key completes a job'
);
select throws_ok(
  $$ update public.enrichment_tracking set account_id = pg_temp.id('elsewhere') $$,
  '42501',
  null,
  'the key cannot move a job to another account'
);
select throws_ok(
  $$ select public.report_enrichment_progress(pg_temp.id('foreign job'), 'a', 1, 0) $$,
  'PT404',
  null,
  'the key cannot report progress of another account''s job'
);

select lives_ok(
  $$
    insert into public.enrichment_tracking (id, account_id, audience_id, enrichment_type, created_by)
    values (pg_temp.id('new job'), pg_temp.id('engines'), pg_temp.id('audience'), 'email', pg_temp.id('mallory'))
  $$,
  'the key creates a job'
);
select is(
  (select created_by from public.enrichment_tracking where id = pg_temp.id('new job')),
  pg_temp.id('ada'),
  'the creator of the key is the creator of the job'
);

-- A scope for writing all segments.
select pg_temp.act_as('api_key', pg_temp.id('editor'));
select lives_ok(
  $$ select public.create_studio_segment(pg_temp.id('engines'), 'new', 'audience', 'a1') $$,
  'the key creates a segment'
);
select is(
  (select created_by from public.segments where name = 'new'),
  pg_temp.id('ada'),
  'the creator of the key is the creator of the segment'
);
select throws_ok(
  $$ select public.create_studio_segment(pg_temp.id('elsewhere'), 'new', 'audience', 'a1') $$,
  '42501',
  null,
  'the key cannot create a segment in another account'
);
select results_eq(
  $$ update public.segments set name = 'renamed' where name = 'new' returning name $$,
  $$ values ('renamed') $$,
  'the key updates a segment'
);
select lives_ok($$ select public.delete_studio_segment(pg_temp.id('two')) $$, 'the key deletes a segment');
select is(
  (public.restore_studio_segment(pg_temp.id('two'))).deleted,
  false,
  'the key restores a segment'
);

select pg_temp.act_as('api_key', pg_temp.id('editor of one'));
select throws_ok(
  $$ select public.create_studio_segment(pg_temp.id('engines'), 'new', 'audience', 'a1') $$,
  '42501',
  null,
  'a scope for one segment does not cover new ones'
);
select throws_ok(
  $$ select public.delete_studio_segment(pg_temp.id('two')) $$,
  'PT404',
  null,
  'a scope for one segment does not cover another'
);

-- Wildcards.
select pg_temp.act_as('api_key', pg_temp.id('auditor'));
select ok(
  public.has_scope('anything', 'at all', 'read') and not public.has_scope('anything', 'at all', 'write'),
  'a scope for reading * * covers every entity, for reading only'
);
select pg_temp.act_as('api_key', pg_temp.id('caretaker'));
select ok(
  public.has_scope('segment', pg_temp.id('one')::text, 'paint') and not public.has_scope('segment', 'other', 'paint'),
  'a scope for one id covers every type and action with that id only'
);
select pg_temp.act_as('api_key', pg_temp.id('root'));
select ok(public.has_scope('anything', 'at all', 'paint'), 'a scope for * * * covers everything');

-- A revoked key.
reset role;
update api_keys_private.api_keys set is_active = false where id = pg_temp.id('root');
select pg_temp.act_as('api_key', pg_temp.id('root'));
select is(public.get_api_key_account_id(), null, 'get_api_key_account_id returns null for a revoked key');
select ok(not public.has_scope('segment', '*', 'read'), 'has_scope is false for a revoked key');
select is_empty($$ select from public.segments $$, 'a revoked key reads no segments');

select * from finish();

rollback;
