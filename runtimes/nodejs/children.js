'use strict';

// Children that an action starts with streams of its own (`stdio: 'inherit'`, which is the default of `fork`) would write past
// the log: to descriptors 1 and 2, for which Node can put nothing else. So they are given others, and what they
// write there goes through process.stdout and process.stderr, as if the action had printed it.

const childProcess = require('child_process');
const fs = require('fs');
const os = require('os');
const path = require('path');

const NAMES = ['stdin', 'stdout', 'stderr'];
let open = 0; // pipes of asynchronous children that somebody may still write to

// Which of our own streams an entry of `stdio` means; null for any other.
function inherited(entry, index) {
  if (entry === 'inherit') return index === 1 || index === 2 ? NAMES[index] : null;
  if (entry === 1 || entry === process.stdout) return 'stdout';
  if (entry === 2 || entry === process.stderr) return 'stderr';
  return null;
}

// Splits options in what the child is to be started with, `stdio` with `replacement(name)` in the place of our streams, and
// those places: [index, name of our stream, replacement]. Null when there are none.
function divert(options, replacement) {
  const { stdio } = options ?? {};
  const entries = stdio === 'inherit' ? ['inherit', 'inherit', 'inherit'] : stdio;
  if (!Array.isArray(entries)) return null;
  const places = [];
  const changed = entries.map((entry, index) => {
    const name = inherited(entry, index);
    if (name === null) return entry;
    const other = replacement(name);
    places.push([index, name, other]);
    return other;
  });
  return places.length ? { options: { ...options, stdio: changed }, places } : null;
}

// A child that runs beside the action: through pipes, as it writes.
function divertAsynchronous() {
  const { spawn } = childProcess.ChildProcess.prototype;
  childProcess.ChildProcess.prototype.spawn = function diverted(options) {
    const other = divert(options, () => 'pipe');
    if (!other) return spawn.call(this, options);
    const status = spawn.call(this, other.options);
    for (const [index, name] of other.places) {
      const stream = this.stdio?.[index];
      if (!stream) continue; // it could not be started
      open += 1;
      stream.on('data', (chunk) => process[name].write(chunk));
      stream.on('close', () => {
        open -= 1;
      });
      this.stdio[index] = null; // the caller has asked for none
      if (this[NAMES[index]] === stream) this[NAMES[index]] = null;
    }
    return status;
  };
}

// A file without a name, for what one synchronous child writes: nobody could empty a pipe meanwhile.
function temporaryFile() {
  const file = path.join(os.tmpdir(), `.output-${process.pid}-${process.hrtime.bigint()}`);
  const fd = fs.openSync(file, 'ax+', 0o600);
  fs.unlinkSync(file);
  return fd;
}

// A child that the action waits for in one call: through files, once it has ended.
function divertSynchronous(method) {
  const original = childProcess[method];
  childProcess[method] = function diverted(...parameters) {
    const last = parameters.length - 1;
    const options = parameters[last];
    const other = typeof options === 'object' && !Array.isArray(options) ? divert(options, temporaryFile) : null;
    if (!other) return original.apply(this, parameters);
    parameters[last] = other.options;
    try {
      return original.apply(this, parameters);
    } finally {
      for (const [, name, fd] of other.places) {
        const size = fs.fstatSync(fd).size;
        const content = Buffer.alloc(size);
        fs.readSync(fd, content, 0, size, 0);
        fs.closeSync(fd);
        if (size) process[name].write(content);
      }
    }
  };
}

// Has children heard. Called once, before any code of an action.
exports.divertChildren = () => {
  divertAsynchronous();
  ['spawnSync', 'execFileSync', 'execSync'].forEach(divertSynchronous);
};

// Lets what ended children have written come in: two rounds of the event loop, no waiting.
exports.settle = async () => {
  for (let round = 0; open && round < 2; round += 1) await new Promise(setImmediate);
};
