'use strict';

// Drives the npm client `openwhisk`, unmodified; npm_cases.js says how. Environment: APIHOST, AUTH, MODULES, ZIP (base64).

const assert = require('assert').strict;
const { clientOf, note, poll, refused, run } = require('./npm_cases');

const openwhisk = clientOf('openwhisk');

const options = { apihost: process.env.APIHOST, api_key: process.env.AUTH, apiversion: 'v1' };
const ow = openwhisk(options);
const ECHO = 'def main(args):\n    print("said", args.get("n"))\n    return args\n';
const FAILS = 'def main(args):\n    return {"error": "out of cheese"}\n';
const ARRAY = 'def main(args):\n    return [1, {"two": 2}]\n';
const SLOW = 'import time\ndef main(args):\n    time.sleep(args["seconds"])\n    return {"slept": True}\n';

const cases = {
  async create_get_update_list_delete() {
    const name = 'life';
    const made = await ow.actions.create({ name, action: ECHO, kind: 'python:3' });
    assert.deepEqual([made.name, made.version, made.exec.kind, made.namespace], [name, '0.0.1', 'python:3', 'anna']);
    const got = await ow.actions.get({ name });
    assert.equal(got.exec.code, ECHO);
    const changed = await ow.actions.update({ name, action: FAILS, kind: 'python:3' });
    assert.equal(changed.version, '0.0.2');
    const listed = await ow.actions.list({ limit: 200 });
    assert.ok(listed.some(each => each.name === name && each.exec.binary === false));
    assert.equal((await ow.actions.list({ limit: 1, skip: listed.length })).length, 0);
    assert.equal((await ow.actions.delete({ name })).name, name);
    await refused(ow.actions.get({ name }), 404);
  },

  async default_kind_is_nodejs() {
    await ow.actions.update({ name: 'node', action: 'const main = args => ({ n: args.n + 1 })' });
    assert.equal((await ow.actions.get({ name: 'node' })).exec.kind, 'nodejs:20');
    assert.deepEqual(await ow.actions.invoke({ name: 'node', params: { n: 1 }, blocking: true, result: true }), { n: 2 });
  },

  async invoke_blocking() {
    const record = await ow.actions.invoke({ name: 'echo', blocking: true, params: { n: 1 } });
    assert.match(record.activationId, /^[0-9a-f]{32}$/);
    assert.deepEqual(record.response.result, { n: 1 });
    assert.equal(record.response.success, true);
    assert.equal(record.response.status, 'success');
    assert.equal(note(record, 'path'), 'anna/echo');
  },

  async invoke_blocking_for_the_result() {
    assert.deepEqual(await ow.actions.invoke({ name: 'echo', blocking: true, result: true, params: { n: 2 } }), { n: 2 });
  },

  async invoke_by_full_name() {
    assert.deepEqual(await ow.actions.invoke({ name: '/anna/echo', blocking: true, result: true, params: { n: 2 } }), { n: 2 });
    assert.deepEqual(await ow.actions.invoke({ name: '/_/echo', blocking: true, result: true, params: { n: 3 } }), { n: 3 });
  },

  async invoke_without_waiting_and_poll() {
    const { activationId } = await ow.actions.invoke({ name: 'slow', params: { seconds: 0.5 } });
    assert.match(activationId, /^[0-9a-f]{32}$/);
    const early = await refused(ow.activations.get({ name: activationId }), 404);
    assert.match(early.message, /does not exist/);
    const record = await poll(() => ow.activations.get({ name: activationId }));
    assert.deepEqual(record.response.result, { slept: true });
    assert.ok(record.duration >= 500);
  },

  async invoke_for_an_array() {
    // OpenWhisk answers a bare array, where else a record is: the client takes it as it is, or rejects with it for `result`.
    const expected = [1, { two: 2 }];
    assert.deepEqual(await ow.actions.invoke({ name: 'array', blocking: true }), expected);
    await assert.rejects(ow.actions.invoke({ name: 'array', blocking: true, result: true }), error => {
      assert.deepEqual(error, expected);
      return true;
    });
  },

  async several_actions_at_once() {
    const all = await ow.actions.invoke(['echo', 'array'].map(name => ({ name, params: { n: 1 } })));
    const records = await Promise.all(all.map(each => poll(() => ow.activations.get({ name: each.activationId }))));
    assert.deepEqual(records.map(each => each.response.result), [{ n: 1 }, [1, { two: 2 }]]);
  },

  async an_action_that_is_not_there_is_404() {
    const error = await refused(ow.actions.invoke({ name: 'nobody', blocking: true }), 404);
    assert.match(error.message, /does not exist/);
    assert.ok(error.error.code);
  },

  async creating_twice_is_409() {
    const error = await refused(ow.actions.create({ name: 'echo', action: ECHO, kind: 'python:3' }), 409);
    assert.match(error.message, /resource already exists/);
  },

  async a_wrong_key_is_401() {
    const stranger = openwhisk({ ...options, api_key: `${options.api_key.slice(0, -4)}zzzz` });
    const error = await refused(stranger.actions.list(), 401);
    assert.match(error.message, /authentication is invalid/);
  },

  async an_error_of_the_application_is_502_with_its_message_and_record() {
    const error = await refused(ow.actions.invoke({ name: 'fails', blocking: true }), 502);
    assert.equal(error.message, `POST ${options.apihost}/api/v1/namespaces/_/actions/fails Returned HTTP 502 (Bad Gateway) --> "out of cheese"`);
    assert.equal(error.error.response.status, 'application error');
    assert.deepEqual(error.error.response.result, { error: 'out of cheese' });
    const bare = await refused(ow.actions.invoke({ name: 'fails', blocking: true, result: true }), 502);
    assert.deepEqual(bare.error.response.result, { error: 'out of cheese' });
    assert.match(bare.message, /--> "out of cheese"$/);
  },

  async activations_get_logs_and_result() {
    const { activationId } = await ow.actions.invoke({ name: 'echo', blocking: true, params: { n: 'now' } });
    const name = activationId;
    const record = await poll(() => ow.activations.get({ name }));
    assert.equal(record.activationId, activationId);
    assert.equal(record.logs.length, 1);
    const { logs } = await ow.activations.logs({ name });
    assert.match(logs[0], /^\d+-\d+-\d+T\d+:\d+:\d+\.\d+Z\s+stdout: said now$/);
    const { result, success } = await ow.activations.result({ name });
    assert.deepEqual([result, success], [{ n: 'now' }, true]);
  },

  async activations_list() {
    const { activationId } = await ow.actions.invoke({ name: 'echo', blocking: true });
    const listed = await ow.activations.list({ limit: 5 });
    assert.ok(listed.length <= 5);
    assert.ok(listed.some(each => each.activationId === activationId));
    const named = await ow.activations.list({ name: 'echo', limit: 200 });
    assert.ok(named.length && named.every(each => each.name === 'echo'));
    const full = await ow.activations.list({ docs: true, limit: 1 });
    assert.ok(full[0].response && full[0].logs);
    const { start } = listed[0];
    assert.ok((await ow.activations.list({ since: start, limit: 200 })).every(each => each.start >= start));
  },

  async namespaces() {
    assert.deepEqual(await ow.namespaces.list(), ['anna']);
    // The client makes of `get` a set of lists.
    const { actions, packages, rules, triggers } = await ow.namespaces.get({ name: '_' });
    assert.ok(actions.some(each => each.name === 'echo'));
    assert.deepEqual([packages, rules, triggers], [[], [], []]);
  },

  async parameters_and_annotations() {
    const name = 'bound';
    await ow.actions.update({ name, action: ECHO, kind: 'python:3', params: { a: 1, b: 'two' }, annotations: { mine: { k: [1] } } });
    const got = await ow.actions.get({ name });
    const byKey = (one, two) => one.key.localeCompare(two.key);
    assert.deepEqual(got.parameters.sort(byKey), [{ key: 'a', value: 1 }, { key: 'b', value: 'two' }]);
    assert.deepEqual(note(got, 'mine'), { k: [1] });
    assert.equal(note(got, 'exec'), 'python:3');
    const result = await ow.actions.invoke({ name, blocking: true, result: true, params: { b: 2, c: 3 } });
    assert.deepEqual(result, { a: 1, b: 2, c: 3 });
  },

  async limits() {
    const name = 'limited';
    const limits = { timeout: 5000, memory: 128, logs: 1 };
    await ow.actions.update({ name, action: ECHO, kind: 'python:3', limits });
    assert.deepEqual((await ow.actions.get({ name })).limits, { ...limits, concurrency: 1 });
    await refused(ow.actions.update({ name, action: ECHO, kind: 'python:3', limits: { memory: 1 } }), 400);
  },

  async a_zip_as_a_buffer() {
    const action = Buffer.from(process.env.ZIP, 'base64');
    await ow.actions.update({ name: 'zip', action, kind: 'nodejs:20' });
    const got = await ow.actions.get({ name: 'zip' });
    assert.deepEqual([got.exec.binary, got.exec.code], [true, process.env.ZIP]);
    assert.deepEqual(await ow.actions.invoke({ name: 'zip', blocking: true, result: true, params: { n: 2 } }), { n: 4 });
  },

  async the_retries_of_the_client_come_to_an_end() {
    const patient = openwhisk({ ...options, retry: { retries: 2, minTimeout: 10 } });
    await refused(patient.actions.get({ name: 'nobody' }), 404);
    assert.deepEqual(await patient.actions.invoke({ name: 'echo', blocking: true, result: true, params: { n: 5 } }), { n: 5 });
  },

  async packages_hold_actions_and_lend_them_their_parameters() {
    await ow.packages.create({ name: 'tools', package: { parameters: [{ key: 'a', value: 1 }], publish: true } });
    await ow.actions.update({ name: 'tools/echo', action: ECHO, kind: 'python:3', params: { b: 2 } });
    assert.deepEqual(await ow.actions.invoke({ name: 'tools/echo', blocking: true, result: true, params: { c: 3 } }), { a: 1, b: 2, c: 3 });
    const got = await ow.packages.get({ name: 'tools' });
    assert.deepEqual([got.publish, got.binding, got.actions.map(each => each.name)], [true, {}, ['echo']]);
    await ow.packages.create({ name: 'lent', package: { binding: { namespace: 'anna', name: 'tools' }, parameters: [{ key: 'b', value: 'binding' }] } });
    assert.deepEqual(await ow.actions.invoke({ name: 'lent/echo', blocking: true, result: true }), { a: 1, b: 2 });
    const listed = await ow.packages.list();
    assert.deepEqual(listed.map(each => [each.name, each.binding]).sort(), [['lent', { name: 'tools', namespace: 'anna' }], ['tools', false]]);
    await refused(ow.packages.delete({ name: 'tools' }), 409);
    await ow.packages.update({ name: 'tools', package: { parameters: [{ key: 'a', value: 'new' }] } });
    assert.equal((await ow.packages.get({ name: 'tools' })).version, '0.0.2');
    await ow.packages.delete({ name: 'lent' });
    await ow.actions.delete({ name: 'tools/echo' });
    assert.equal((await ow.packages.delete({ name: 'tools' })).name, 'tools');
    assert.deepEqual(await ow.packages.list(), []);
  },

  async triggers_and_rules() {
    await ow.triggers.create({ name: 'event', trigger: { parameters: [{ key: 'x', value: 1 }] } });
    await refused(ow.triggers.create({ name: 'event' }), 409);
    const rule = await ow.rules.create({ name: 'link', action: 'echo', trigger: 'event' });
    assert.deepEqual([rule.status, rule.action, rule.trigger], ['active', { name: 'echo', path: 'anna' }, { name: 'event', path: 'anna' }]);
    await ow.rules.disable({ name: 'link' });
    assert.equal((await ow.rules.get({ name: 'link' })).status, 'inactive');
    await ow.rules.enable({ name: 'link' });
    assert.equal((await ow.rules.get({ name: 'link' })).status, 'active');
    const updated = await ow.rules.update({ name: 'link', action: 'array', trigger: 'event' });
    assert.deepEqual([updated.version, updated.action.name, updated.status], ['0.0.2', 'array', 'active']);
    assert.deepEqual((await ow.rules.list()).map(each => [each.name, 'status' in each]), [['link', false]]);
    const trigger = await ow.triggers.get({ name: 'event' });
    assert.deepEqual(trigger.rules, { 'anna/link': { action: { name: 'array', path: 'anna' }, status: 'active' } });
    await refused(ow.rules.create({ name: 'broken', action: 'nobody', trigger: 'event' }), 400);
    assert.equal((await ow.rules.delete({ name: 'link' })).status, 'inactive');
    await ow.triggers.delete({ name: 'event' });
    await refused(ow.triggers.get({ name: 'event' }), 404);
  },

  async a_trigger_is_fired_and_its_rule_runs_the_action() {
    await ow.triggers.create({ name: 'fired', trigger: { parameters: [{ key: 'x', value: 1 }] } });
    await ow.rules.create({ name: 'runs', action: 'echo', trigger: 'fired' });
    const { activationId } = await ow.triggers.invoke({ name: 'fired', params: { n: 'fire' } });
    const record = await poll(() => ow.activations.get({ name: activationId }));
    assert.deepEqual(record.response.result, { n: 'fire' });
    const told = JSON.parse(record.logs[0]);
    assert.deepEqual([told.rule, told.action, told.success], ['anna/runs', 'anna/echo', true]);
    const { result } = (await poll(() => ow.activations.get({ name: told.activationId }))).response;
    assert.deepEqual([result.n, result.x], ['fire', 1]);
    await ow.rules.delete({ name: 'runs' });
    await ow.triggers.delete({ name: 'fired' });
  },

  async feeds_are_told_of_each_event_of_a_life() {
    await ow.actions.update({ name: 'feed', action: ECHO, kind: 'python:3', annotations: { feed: true } });
    const trigger = '/anna/ticks';
    const [, authKey] = [null, options.api_key];
    for (const [call, event] of [['create', 'CREATE'], ['get', 'READ'], ['update', 'UPDATE'], ['delete', 'DELETE']]) {
      const record = await ow.feeds[call]({ name: 'feed', trigger, params: { every: 5 } });
      const told = { lifecycleEvent: event, triggerName: trigger, authKey };
      assert.deepEqual(record.response.result, event === 'DELETE' || event === 'READ' ? { ...told, ...record.response.result } : { ...told, every: 5 });
    }
    await refused(ow.feeds.create({ name: 'nobody', trigger }), 404);
  },

  async routes_are_made_served_and_taken_away() {
    await ow.actions.update({ name: 'web', action: 'const main = ({ name }) => ({ body: { hello: name } })', annotations: { 'web-export': true } });
    const made = await ow.routes.create({ relpath: '/greet', basepath: '/demo', operation: 'GET', action: 'web' });
    const answer = await fetch(`${made.gwApiUrl}/greet?name=Ada`);
    assert.deepEqual([answer.status, (await answer.json())], [200, { body: { hello: 'Ada' } }]);
    const { apis } = await ow.routes.list();
    assert.deepEqual(apis.map(each => each.value.apidoc.basePath), ['/demo']);
    assert.deepEqual(Object.keys(apis[0].value.apidoc.paths['/greet']), ['get']);
    await ow.routes.delete({ basepath: '/demo' });
    assert.deepEqual((await ow.routes.list()).apis, []);
    assert.equal((await fetch(`${made.gwApiUrl}/greet`)).status, 405); // as any path that leads nowhere
  },

  async sequences() {
    await ow.actions.update({ name: 'row', sequence: ['/_/echo', '/anna/array'] });
    const got = await ow.actions.get({ name: 'row' });
    assert.deepEqual(got.exec, { kind: 'sequence', components: ['/anna/echo', '/anna/array'] });
    assert.deepEqual(await ow.actions.invoke({ name: 'row', blocking: true }), [1, { two: 2 }]);
  },
};

async function prepare() {
  const prepared = { echo: ECHO, fails: FAILS, array: ARRAY, slow: SLOW };
  for (const [name, action] of Object.entries(prepared)) await ow.actions.update({ name, action, kind: 'python:3' });
}

run(cases, prepare);
