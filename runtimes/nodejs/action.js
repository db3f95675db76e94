'use strict';

// Loads a user's action and calls it.

const fs = require('fs');
const Module = require('module');
const os = require('os');
const path = require('path');

// Where inline code believes to be: an image of one's own can put modules into /action/node_modules.
const INLINE = '/action/index.js';
const ENTRY_POINT = /^[A-Za-z_$][\w$]*(\.[A-Za-z_$][\w$]*)*$/;
const FOUND = Symbol.for('invokerd.entry-point');

function unpacked(code) {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'action-'));
  require('./archive').unpack(Buffer.from(code, 'base64'), directory);
  return directory;
}

function loadDirectory(directory) {
  if (!fs.existsSync(path.join(directory, 'package.json')) && !fs.existsSync(path.join(directory, 'index.js'))) {
    throw new Error('Zipped actions must contain either package.json or index.js at the root.');
  }
  process.chdir(directory);
  return require(directory);
}

// Inline code may export its entry point, or merely define it.
function loadSource(code, main) {
  const module_ = new Module(INLINE);
  module_.filename = INLINE;
  module_.paths = Module._nodeModulePaths(path.dirname(INLINE));
  const first = main.split('.', 1)[0];
  const found = `module[Symbol.for('invokerd.entry-point')] = typeof ${first} === 'undefined' ? undefined : ${main}`;
  module_._compile(`${code}\n;${found};`, INLINE); // behind the code: line numbers stay the user's
  return module_;
}

// Returns the action's function. Throws whatever is wrong with the code.
exports.load = (value) => {
  const { main, code, binary, code_path: directory } = value;
  if (!ENTRY_POINT.test(main)) throw new Error(`'${main}' cannot be the name of a function.`);
  let exported;
  if (directory || binary) {
    exported = loadDirectory(directory || unpacked(code));
  } else {
    const module_ = loadSource(code, main);
    if (typeof module_[FOUND] === 'function') return module_[FOUND];
    exported = module_.exports;
  }
  const entryPoint = main.split('.').reduce((from, name) => from?.[name], exported);
  if (typeof entryPoint !== 'function') throw new Error(`Action entrypoint '${main}' is not a function.`);
  return entryPoint;
};

// What of an error goes into a result: an Error's own fields are not enumerable.
function plain(error) {
  if (!(error instanceof Error)) return typeof error === 'function' ? `[Function: ${error.name}]` : error;
  return { ...error, name: error.name, message: error.message, stack: error.stack };
}

// Calls the action. What it throws at once is thrown; what its promise rejects with becomes `{error}`, a result: an Error is
// logged too, for its stack is where its author looks for the line.
exports.call = async (entryPoint, argument) => {
  const pending = entryPoint(argument);
  try {
    const result = await pending;
    return result === undefined ? {} : result;
  } catch (error) {
    if (error instanceof Error) console.error(error);
    return { error: error ? plain(error) : {} };
  }
};
