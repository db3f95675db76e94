'use strict';

// What the drivers of npm's clients share. A driver has an object of cases, each an asynchronous function that is one test;
// `run` runs them in their order and prints one JSON line a case: {name, ok, detail}. npm_driver.py reads them.

const assert = require('assert').strict;
const path = require('path');

// Loads a client from where npm has installed it, unmodified. Environment: MODULES.
exports.clientOf = (name) => require(path.join(process.env.MODULES, name));

// The value of an annotation; undefined where there is none.
exports.note = (entity, key) => entity.annotations.find((each) => each.key === key)?.value;

// The error of a call that must fail, with this status.
exports.refused = async (promise, status) => {
  try {
    await promise;
  } catch (error) {
    assert.equal(error.name, 'OpenWhiskError', error.stack);
    assert.equal(error.statusCode, status, error.message);
    return error;
  }
  return assert.fail(`nothing was refused; ${status} was expected`);
};

// Records may come a moment after the answer: ask again after a 404, as the client's users do.
exports.poll = async (ask) => {
  for (const deadline = Date.now() + 20000; ; ) {
    try {
      return await ask();
    } catch (error) {
      if (error.statusCode !== 404 || Date.now() > deadline) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
};

// Runs `prepare`, then all cases; one that fails does not keep the next from running.
exports.run = async (cases, prepare = async () => {}) => {
  try {
    await prepare();
  } catch (error) {
    console.error(error);
    process.exitCode = 1;
    return;
  }
  for (const [name, run] of Object.entries(cases)) {
    let detail = null;
    try {
      await run();
    } catch (error) {
      detail = error.stack || String(error);
    }
    console.log(JSON.stringify({ name, ok: detail === null, detail }));
  }
};
