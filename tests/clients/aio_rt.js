'use strict';

// Drives Adobe's `aio rt`, unmodified; npm_cases.js says how. The commands of all cases run in one process, since each of its own
// would take seconds to start. Environment: MODULES, HOME, KEY, SOURCE (a file), ACTIVATION (an id), AIO_RUNTIME_*.

const assert = require('assert').strict;
const fs = require('fs');
const { clientOf, run } = require('./npm_cases');

const cli = clientOf('@adobe/aio-cli');
const SOURCE = process.env.SOURCE;
// All that `aio rt deploy` takes: packages, actions, sequences, triggers, feeds, rules, routes and bindings.

const MANIFEST = `
project:
  name: demo
  packages:
    demo:
      public: true
      actions:
        hello:
          function: ${SOURCE}
          runtime: nodejs:20
          limits: { timeout: 5000, memorySize: 128 }
          inputs: { name: Ada }
        page:
          function: ${SOURCE}
          runtime: nodejs:20
          web: true
      sequences:
        twice: { actions: 'hello, hello' }
      triggers:
        tick:
          inputs: { x: 1 }
        timed:
          feed: /whisk.system/alarms/alarm
          inputs: { cron: '0 0 1 1 *' }
      rules:
        tick-twice: { trigger: tick, action: twice }
      apis:
        pages:
          base:
            path:
              page: { method: GET, response: json }
      dependencies:
        echoes:
          location: /whisk.system/utils
          inputs: { bound: 1 }
`;

// Runs a command as the program `aio` does; returns what it prints, of both streams.
async function aio(...words) {
  const printed = [];
  const write = { stdout: process.stdout.write, stderr: process.stderr.write };
  for (const stream of ['stdout', 'stderr']) process[stream].write = (text) => printed.push(String(text)) > 0;
  try {
    await cli.run(['rt', ...words]);
  } finally {
    Object.assign(process.stdout, { write: write.stdout });
    Object.assign(process.stderr, { write: write.stderr });
    process.exitCode = 0; // commands that fail leave it set
  }
  return printed.join('');
}

// The JSON that a command prints; some put a title before it.
async function json(...words) {
  const printed = await aio(...words);
  return JSON.parse(printed.slice(printed.search(/[[{]/)));
}

async function refused(words, pattern) {
  await assert.rejects(aio(...words), (error) => {
    assert.match(error.message, pattern);
    assert.notEqual(error.oclif?.exit ?? 1, 0);
    return true;
  });
}

const cases = {
  async actions() {
    await aio('action', 'create', 'hello', SOURCE, '--env', 'LEVEL', '3', '--memory', '128', '-p', 'name', 'nobody');
    const got = await json('action', 'get', 'hello');
    assert.deepEqual([got.exec.kind, got.limits.memory], ['nodejs:20', 128]);
    assert.equal((await aio('action', 'get', 'hello', '--code')).trim(), fs.readFileSync(SOURCE, 'utf8').trim());
    assert.deepEqual(got.parameters.find((each) => each.key === 'LEVEL'), { key: 'LEVEL', value: '3', init: true });
    assert.deepEqual(await json('action', 'invoke', 'hello', '--result', '-p', 'name', 'Ada'), { hello: 'Ada', env: '3' });
    assert.match((await json('action', 'invoke', 'hello')).activationId, /^[0-9a-f]{32}$/);
    assert.deepEqual((await json('action', 'invoke', 'hello', '--blocking')).response.result, { hello: 'nobody', env: '3' });
    await refused(['action', 'create', 'hello', SOURCE], /resource already exists/);
    await aio('action', 'update', 'hello', SOURCE, '--timeout', '5000');
    const listed = (await json('action', 'list', '--json')).find((each) => each.name === 'hello');
    assert.deepEqual([listed.version, listed.exec], ['0.0.2', { binary: false }]);
    await aio('action', 'delete', 'hello');
    await refused(['action', 'get', 'hello'], /404/);
  },

  async activations_and_their_logs() {
    const id = process.env.ACTIVATION;
    const listed = await json('activation', 'list', '--json', '--limit', '200');
    assert.ok(listed.some((each) => each.activationId === id));
    const table = await aio('activation', 'list', 'logs');
    for (const word of [id, 'python:3', 'cold', 'success', 'logs']) assert.ok(table.includes(word), table);
    assert.deepEqual((await json('activation', 'get', id)).response.result, { n: 1 });
    assert.deepEqual((await json('activation', 'result', id)).result, { n: 1 });
    assert.match(await aio('activation', 'logs', id), /Z stdout: a line of mine/); // asks for log forwarding first
    await refused(['activation', 'get', '0'.repeat(32)], /404/);
  },

  async log_forwarding() {
    assert.match(await aio('namespace', 'log-forwarding', 'get'), /adobe_io_runtime/);
  },

  async packages_and_what_is_in_them() {
    await aio('package', 'create', 'mine', '--param', 'name', 'of the package');
    assert.deepEqual((await json('package', 'get', 'mine')).parameters, [{ key: 'name', value: 'of the package' }]);
    await aio('action', 'create', 'mine/hello', SOURCE);
    assert.equal((await json('action', 'invoke', 'mine/hello', '--result')).hello, 'of the package');
    const inside = await json('action', 'list', 'mine', '--json');
    assert.deepEqual(inside.map((each) => [each.namespace, each.name]), [['anna/mine', 'hello']]);
    await aio('package', 'bind', '/anna/mine', 'bound', '--param', 'name', 'of the binding');
    assert.equal((await json('action', 'invoke', 'bound/hello', '--result')).hello, 'of the binding');
    assert.deepEqual((await json('package', 'list', '--json')).map((each) => each.name).sort(), ['bound', 'mine']);
    await aio('package', 'delete', 'bound');
    await refused(['package', 'delete', 'mine'], /not empty \(contains 1 entity/);
    await aio('action', 'delete', 'mine/hello');
    await aio('package', 'delete', 'mine');
    assert.deepEqual(await json('package', 'list', '--json'), []);
    await aio('package', 'create', 'full');
    for (const name of ['one', 'two']) await aio('action', 'create', `full/${name}`, SOURCE);
    await aio('package', 'delete', 'full', '--recursive');
    assert.deepEqual(await json('package', 'list', '--json'), []);
    assert.deepEqual((await json('action', 'list', '--json')).filter((each) => each.namespace !== 'anna'), []);
  },

  async triggers_and_rules() {
    await aio('trigger', 'create', 'event', '--param', 'x', '1');
    await aio('rule', 'create', 'link', 'event', 'logs');
    assert.equal((await aio('rule', 'status', 'link')).trim(), 'active');
    await aio('rule', 'disable', 'link');
    const rules = await json('rule', 'list', '--json');
    assert.deepEqual(rules.map((each) => [each.name, each.status]), [['link', 'inactive']]);
    await aio('rule', 'enable', 'link');
    assert.deepEqual(Object.keys((await json('trigger', 'get', 'event')).rules), ['anna/link']);
    assert.deepEqual((await json('trigger', 'list', '--json')).map((each) => each.name), ['event']);
    await aio('rule', 'delete', 'link');
    await aio('trigger', 'delete', 'event');
    await refused(['trigger', 'get', 'event'], /404/);
  },

  async routes() {
    await aio('action', 'create', 'web', SOURCE, '--web', 'true');
    const url = (await aio('route', 'create', '/base', '/path', 'get', 'web')).trim();
    assert.deepEqual((await (await fetch(`${url}?name=Ada`)).json()).hello, 'Ada');
    assert.ok((await aio('route', 'list')).includes(url));
    await aio('route', 'delete', '/base');
    assert.ok(!(await aio('route', 'list')).includes(url));
    await aio('action', 'delete', 'web');
  },

  async projects_are_deployed_synced_and_undeployed() {
    const manifest = `${process.env.HOME}/manifest.yaml`;
    fs.writeFileSync(manifest, MANIFEST);
    await aio('deploy', '--manifest', manifest);
    await aio('deploy', 'sync', '--manifest', manifest); // everything again, with overwrite, and marked as the project's
    const result = async (name) => JSON.parse(await aio('action', 'invoke', name, '--result'));
    assert.equal((await result('demo/hello')).hello, 'Ada');
    assert.equal((await result('demo/twice')).hello, 'Ada');
    assert.deepEqual((await result('echoes/echo')), { bound: 1 });
    const hello = await json('action', 'get', 'demo/hello');
    assert.deepEqual([hello.limits.timeout, hello.limits.memory], [5000, 128]);
    const marks = hello.annotations.find((each) => each.key === 'whisk-managed').value;
    assert.equal(marks.projectName, 'demo');
    assert.equal((await json('package', 'get', 'demo')).publish, true);
    const timed = await json('trigger', 'get', 'timed');
    assert.ok(timed.annotations.some((each) => each.key === 'feed' && each.value === '/whisk.system/alarms/alarm'));
    assert.equal((await aio('rule', 'status', 'tick-twice')).trim(), 'active');
    const url = (await aio('route', 'list')).match(/http\S+/)[0];
    assert.equal((await (await fetch(`${url}?name=Bea`)).json()).hello, 'Bea');
    await aio('deploy', 'undeploy', '--manifest', manifest);
    for (const kind of ['package', 'trigger', 'rule']) assert.deepEqual(await json(kind, 'list', '--json'), [], kind);
    assert.ok(!(await aio('route', 'list')).includes(url));
  },

  async properties_and_namespaces() {
    const told = await aio('property', 'get');
    for (const word of [process.env.KEY, process.env.BUILD, process.env.BUILD_NUMBER]) assert.ok(told.includes(word), told);
    assert.match(await aio('namespace', 'list'), /anna/);
    assert.match(await aio('list'), /\/anna\/logs/); // wsk's `namespace get`
  },
};

run(cases);
