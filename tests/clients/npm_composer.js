'use strict';

// Drives npm's `openwhisk-composer`, unmodified: compositions are compiled, deployed and invoked; npm_cases.js says how.
// `parallel` and `map`, which need a redis server, are in npm_composer_parallel.js.
// Environment: APIHOST, AUTH, MODULES.

const assert = require('assert').strict;
const { clientOf, note, poll, run } = require('./npm_cases');

const composer = clientOf('openwhisk-composer');
const options = { apihost: process.env.APIHOST, api_key: process.env.AUTH, apiversion: 'v1' };
const ow = clientOf('openwhisk-composer/client')(options);

const ACTIONS = {
  add: 'def main(args):\n    return {"n": args.get("n", 0) + args.get("by", 1)}\n',
  double: 'def main(args):\n    return {"n": 2 * args["n"]}\n',
  is_even: 'def main(args):\n    return {"value": args["n"] % 2 == 0}\n',
  fails: 'def main(args):\n    return {"error": "out of cheese"}\n',
  echo: 'def main(args):\n    return args\n',
};

// Deploys a composition and runs it; the record.
async function perform(name, composition, params) {
  await ow.compositions.deploy({ name, ...composition.compile() }, true);
  return ow.actions.invoke({ name, params, blocking: true }).catch((error) => {
    if (error.statusCode !== 502) throw error;
    return error.error;
  });
}

async function result(name, composition, params) {
  const record = await perform(name, composition, params);
  assert.equal(record.response.status, 'success', JSON.stringify(record.response));
  return record.response.result;
}

const cases = {
  async deploy_makes_an_action_that_is_a_conductor() {
    await ow.compositions.deploy({ name: 'made', ...composer.sequence('add', 'double').compile() }, true);
    const action = await ow.actions.get({ name: 'made' });
    assert.equal(action.exec.kind, 'nodejs:20');
    assert.equal(typeof note(action, 'conductor'), 'object');
    assert.equal(note(action, 'provide-api-key'), true);
    assert.ok(note(action, 'composerVersion'));
  },

  async sequence_() {
    const record = await perform('sequence', composer.sequence('add', 'double', '/_/add'), { n: 1 });
    assert.deepEqual(record.response.result, { n: 5 });
    assert.deepEqual([note(record, 'conductor'), note(record, 'kind'), note(record, 'topmost')], [true, 'sequence', true]);
    const parts = await Promise.all(record.logs.map((id) => poll(() => ow.activations.get({ name: id }))));
    assert.deepEqual(parts.map((part) => part.name).filter((name) => name !== 'sequence'), ['add', 'double', 'add']);
    assert.ok(parts.every((part) => part.cause === record.activationId));
  },

  async if_takes_the_branch_that_the_condition_says() {
    const composition = composer.if('is_even', 'double', 'add');
    assert.deepEqual(await result('branch', composition, { n: 4 }), { n: 8 });
    assert.deepEqual(await result('branch', composition, { n: 5 }), { n: 6 });
  },

  async while_repeats() {
    const composition = composer.while(composer.function('args => ({ value: args.n < 5 })'), 'add');
    assert.deepEqual(await result('loop', composition, { n: 1 }), { n: 5 });
  },

  async try_goes_on_with_its_handler() {
    const composition = composer.try('fails', composer.function('args => ({ caught: args.error })'));
    assert.deepEqual(await result('caught', composition, {}), { caught: 'out of cheese' });
  },

  async finally_runs_in_any_case() {
    const composition = composer.finally('fails', composer.function('args => ({ after: args.error })'));
    assert.deepEqual(await result('finally', composition, {}), { after: 'out of cheese' });
  },

  async retain_gives_back_the_input_beside_the_result() {
    assert.deepEqual(await result('retain', composer.retain('double'), { n: 3 }), { params: { n: 3 }, result: { n: 6 } });
  },

  async retry_and_repeat() {
    const composition = composer.sequence(composer.repeat(3, 'add'), composer.retry(2, composer.function('args => args')));
    assert.deepEqual(await result('repeat', composition, { n: 0 }), { n: 3 });
  },

  async let_binds_variables_that_functions_see() {
    const composition = composer.let({ kept: 0 }, composer.function('args => { kept = args.n; return args }'),
      'double', composer.function('args => ({ n: args.n, kept })'));
    assert.deepEqual(await result('bound', composition, { n: 3 }), { n: 6, kept: 3 });
  },

  async merge_literal_and_mask() {
    const composition = composer.sequence(composer.merge(composer.literal({ by: 10 })), 'add');
    assert.deepEqual(await result('merge', composition, { n: 1 }), { n: 11 });
  },

  async an_error_that_nobody_catches_ends_it() {
    const record = await perform('uncaught', composer.sequence('add', 'fails', 'double'), { n: 1 });
    assert.deepEqual(record.response.result, { error: 'out of cheese' });
    const names = await Promise.all(record.logs.map(async (id) => (await poll(() => ow.activations.get({ name: id }))).name));
    assert.ok(!names.includes('double'));
  },

  async an_action_that_does_not_exist_is_an_error_of_the_composition() {
    const record = await perform('lost', composer.sequence('not-there'), {});
    assert.match(record.response.result.error, /resolve action with name/);
  },

  async compositions_nest_by_name() {
    await ow.compositions.deploy({ name: 'inner', ...composer.sequence('add', 'add').compile() }, true);
    assert.deepEqual(await result('outer', composer.sequence('inner', 'double'), { n: 1 }), { n: 6 });
  },

  async a_composition_can_carry_its_own_actions() {
    const own = composer.action('carried', { action: (args) => ({ carried: args.n }) });
    assert.deepEqual(await result('carries', composer.sequence(own), { n: 7 }), { carried: 7 });
  },
};

run(cases, async () => {
  for (const [name, action] of Object.entries(ACTIONS)) await ow.actions.update({ name, action, kind: 'python:3' });
});
