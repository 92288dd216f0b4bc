// Common uses of supabase-js on the embedded stack, which this test starts.
// Run by `node --test`; PYTHON names the interpreter that has the package.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { after, before, test } from "node:test";
import { createInterface } from "node:readline";
import { createClient } from "@supabase/supabase-js";

const ADA = "11111111-1111-4111-8111-111111111111"; // created by the seed
const ACCOUNT = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";

let stack, values, supabase;

before(async () => {
  const command = ["-m", "audiencelab_sdk.local", "--json"];
  stack = spawn(process.env.PYTHON ?? "python3", command, { stdio: ["ignore", "pipe", "inherit"] });
  for await (const line of createInterface({ input: stack.stdout })) {
    values = JSON.parse(line);
    break;
  }
  assert.ok(values, "the stack did not start");
  supabase = client(values.SERVICE_ROLE_KEY);
});

after(async () => {
  stack.kill("SIGTERM");
  const status = await new Promise((resolve) => stack.once("exit", resolve));
  assert.equal(status, 0);
});

function client(key, headers = {}) {
  return createClient(values.API_URL, key, {
    global: { headers },
    auth: { persistSession: false, autoRefreshToken: false },
    realtime: { transport: class {} }, // not used here, and Node 20 has no WebSocket
  });
}

function segment(name, more = {}) {
  return {
    account_id: ACCOUNT,
    name,
    source_type: "audience",
    source_id: "1",
    created_by: ADA,
    ...more,
  };
}

/** Return the data of a response without an error. */
function data(response) {
  assert.equal(response.error, null);
  return response.data;
}

test("rpc", async () => {
  const verified = data(await supabase.rpc("verify_api_key", { p_api_key: "sk_unknown" }));
  assert.deepEqual(verified, {
    valid: false,
    api_key_id: null,
    account_id: null,
    error: "Invalid API key",
  });
  const { error, status } = await supabase.rpc("no_such_function", { a: 1 });
  assert.equal(status, 404);
  assert.equal(error.code, "PGRST202");
});

test("insert, select with filters, order, range and count", async () => {
  const source = randomUUID();
  const rows = [1, 2, 3, 4].map((n) => segment(`S${n}`, { source_id: source, tags: [`t${n}`] }));
  const inserted = data(await supabase.from("segments").insert(rows).select("id, name, tags"));
  assert.deepEqual(inserted.map((row) => row.tags), [["t1"], ["t2"], ["t3"], ["t4"]]);

  const page = await supabase
    .from("segments")
    .select("name", { count: "exact" })
    .eq("source_id", source)
    .neq("name", "S4")
    .order("name", { ascending: false })
    .range(0, 1);
  assert.deepEqual(data(page), [{ name: "S3" }, { name: "S2" }]);
  assert.equal(page.count, 3);

  const mine = () => supabase.from("segments").select("name").eq("source_id", source).order("name");
  const names = async (query) => data(await query).map((row) => row.name);
  assert.deepEqual(await names(mine().in("name", ["S1", "S3", 'a "b", c'])), ["S1", "S3"]);
  assert.deepEqual(await names(mine().or("name.eq.S1,and(name.gt.S3,deleted.is.false)")), ["S1", "S4"]);
  assert.deepEqual(await names(mine().contains("tags", ["t2"])), ["S2"]);
  assert.deepEqual(await names(mine().overlaps("tags", ["t2", "t3"])), ["S2", "S3"]);
  assert.deepEqual(await names(mine().ilike("name", "s_").limit(1)), ["S1"]);
  assert.deepEqual(await names(mine().not("name", "in", "(S1,S2)")), ["S3", "S4"]);
  assert.deepEqual(await names(mine().is("description", null).gte("name", "S4")), ["S4"]);

  const head = await supabase
    .from("segments")
    .select("*", { count: "exact", head: true })
    .eq("source_id", source);
  assert.equal(head.count, 4);
  assert.equal(head.data, null);
});

test("single and maybeSingle", async () => {
  const role = (name) => supabase.from("roles").select("name").eq("name", name);
  assert.deepEqual(data(await role("owner").single()), { name: "owner" });
  assert.deepEqual(data(await role("owner").maybeSingle()), { name: "owner" });
  assert.equal(data(await role("nobody").maybeSingle()), null);
  const { error, status } = await role("nobody").single();
  assert.equal(status, 406);
  assert.equal(error.code, "PGRST116");
});

test("upsert, update and delete", async () => {
  const made = data(await supabase.from("segments").insert(segment("first")).select().single());
  assert.deepEqual(made.filters, []);
  const merged = await supabase.from("segments").upsert({ ...made, name: "merged" }).select("name");
  assert.deepEqual(data(merged), [{ name: "merged" }]);
  const filters = [{ field: "country", operator: "=", value: "US" }];
  const changed = await supabase.from("segments").update({ filters }).eq("id", made.id).select();
  assert.deepEqual(data(changed)[0].filters, filters);
  const quiet = await supabase.from("segments").update({ tags: ["x"] }).eq("id", made.id);
  assert.deepEqual([quiet.status, data(quiet)], [204, null]);
  const gone = await supabase.from("segments").delete({ count: "exact" }).eq("id", made.id);
  assert.equal(gone.count, 1);
  assert.deepEqual(data(await supabase.from("segments").select().eq("id", made.id)), []);
});

test("errors", async () => {
  const table = await supabase.from("no_such_table").select();
  assert.deepEqual([table.status, table.error.code], [404, "PGRST205"]);
  const column = await supabase.from("segments").select("no_such_column");
  assert.deepEqual([column.status, column.error.code], [400, "42703"]);
  const wrong = await supabase.from("segments").insert(segment("x", { source_type: "odd" }));
  assert.deepEqual([wrong.status, wrong.error.code], [400, "23514"]);
  const twice = await supabase.from("roles").insert({ name: "owner", hierarchy_level: 99 });
  assert.deepEqual([twice.status, twice.error.code], [409, "23505"]);
});

test("a request without a token of its own may read nothing", async () => {
  for (const key of [values.ANON_KEY, values.PUBLISHABLE_KEY]) {
    const { error, status } = await client(key).from("segments").select();
    assert.deepEqual([status, error.code], [401, "42501"]);
  }
});

test("the secret key is the service role, but not in a browser", async () => {
  const roles = (...options) => client(...options).from("roles").select("name").order("name");
  const names = [{ name: "member" }, { name: "owner" }];
  assert.deepEqual(data(await roles(values.SECRET_KEY)), names);
  const browser = { "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/133.0" };
  const { error, status } = await roles(values.SECRET_KEY, browser);
  assert.deepEqual([status, error.message], [401, "Forbidden use of secret API key in browser"]);
  assert.deepEqual(data(await roles(values.SERVICE_ROLE_KEY, browser)), names);
});
