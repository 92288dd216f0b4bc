-- Two users, each the owner of one account, for local use.
insert into auth.users (id, email)
values
  ('11111111-1111-4111-8111-111111111111', 'ada@example.com'),
  ('22222222-2222-4222-8222-222222222222', 'grace@example.com')
on conflict do nothing;

insert into public.accounts (id, name, slug, is_personal_account, primary_owner_user_id)
values
  ('aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', 'Analytical Engines', 'analytical-engines', false,
   '11111111-1111-4111-8111-111111111111'),
  ('bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb', 'Nanoseconds', 'nanoseconds', false,
   '22222222-2222-4222-8222-222222222222')
on conflict do nothing;

insert into public.accounts_memberships (user_id, account_id, account_role)
values
  ('11111111-1111-4111-8111-111111111111', 'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa', 'owner'),
  ('22222222-2222-4222-8222-222222222222', 'bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb', 'owner')
on conflict do nothing;
