'use strict';

// Drives `parallel` and `map` of npm's `openwhisk-composer`, unmodified. What the branches share is in a redis server, which the
// containers reach through a socket that is mounted into them. Environment: APIHOST, AUTH, MODULES, REDIS (path in the container).

const assert = require('assert').strict;
const { clientOf, run } = require('./npm_cases');

const composer = clientOf('openwhisk-composer');
const ow = clientOf('openwhisk-composer/client')({ apihost: process.env.APIHOST, api_key: process.env.AUTH, apiversion: 'v1' });
const REDIS = { redis: { uri: process.env.REDIS } };

const ACTIONS = {
  add: 'def main(args):\n    return {"n": args.get("n", 0) + 1}\n',
  double: 'def main(args):\n    return {"n": 2 * args["n"]}\n',
  double_value: 'def main(args):\n    return {"value": 2 * args["value"]}\n',
  fails: 'def main(args):\n    return {"error": "out of cheese"}\n',
};

// Deploys a composition and runs it; the result, error or not.
async function result(name, composition, params) {
  await ow.compositions.deploy({ name, ...composition.compile() }, true);
  return ow.actions.invoke({ name, params, blocking: true, result: true }).catch((error) => {
    if (error.statusCode !== 502) throw error;
    return error.error.response.result;
  });
}

const cases = {
  async parallel_runs_its_branches_and_gathers_their_results() {
    assert.deepEqual(await result('both', composer.parallel('add', 'double'), { n: 5, $composer: REDIS }), { value: [{ n: 6 }, { n: 10 }] });
  },

  async map_runs_a_branch_for_each_element() {
    const composition = composer.map('double_value');
    assert.deepEqual(await result('each', composition, { value: [1, 2, 3], $composer: REDIS }), { value: [{ value: 2 }, { value: 4 }, { value: 6 }] });
  },

  async a_branch_may_fail_and_the_others_count() {
    const answer = await result('one', composer.parallel('add', 'fails'), { n: 1, $composer: REDIS });
    assert.deepEqual(answer, { value: [{ n: 2 }, { error: 'out of cheese' }] });
  },

  async branches_may_branch_again() {
    const composition = composer.parallel(composer.sequence('add', composer.parallel('add', 'double')), 'double');
    assert.deepEqual(await result('deep', composition, { n: 1, $composer: REDIS }), { value: [{ value: [{ n: 3 }, { n: 4 }] }, { n: 2 }] });
  },

  async without_a_redis_it_says_so() {
    const answer = await result('none', composer.parallel('add', 'double'), { n: 5 });
    assert.deepEqual(answer, { error: 'Parallel combinator requires a properly configured redis instance' });
  },
};

run(cases, async () => {
  for (const [name, action] of Object.entries(ACTIONS)) await ow.actions.update({ name, action, kind: 'python:3' });
});
