'use strict';

// The runtime of kind nodejs:20: OpenWhisk's container contract over a small HTTP/1.1 server of our own. Node's `http`
// would take 60 ms more at each cold start, and closes connections that a frozen container has kept.

const net = require('net');
const { load, call } = require('./action');
const { openLog } = require('./log');

const BODY_BYTES = 64 * 1024 * 1024;
const HEAD_BYTES = 64 * 1024;
const REASONS = { 200: 'OK', 403: 'Forbidden', 400: 'Bad Request', 404: 'Not Found', 502: 'Bad Gateway' };

const isConcurrent = process.env.__OW_ALLOW_CONCURRENT === 'true';
const log = openLog(isConcurrent);
let entryPoint = null;
const running = new Set(); // of each run, what ends it because of an exception that nobody caught

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function exportVariables(variables) {
  for (const [name, text] of Object.entries(variables)) if (typeof text === 'string') process.env[name] = text;
}

function initialise(request) {
  if (entryPoint) throw new Refused(403, 'Cannot initialize the action more than once.');
  const value = request.value ?? {};
  const main = value.main ?? 'main';
  if (!main || typeof main !== 'string' || !(value.code_path || (value.code && typeof value.code === 'string'))) {
    throw new Refused(403, 'Missing main/no code to execute.');
  }
  const env = value.env ?? {};
  const voice = log.begin(env.__OW_ACTIVATION_ID);
  exportVariables(env);
  try {
    entryPoint = load({ ...value, main });
  } catch (error) {
    console.error('Error during initialization:', error);
    return [502, { error: `Initialization has failed due to: ${error?.stack ?? error}` }, log.end(voice, true)];
  }
  return [200, { ok: true }, log.end(voice, false)];
}

async function run({ value, ...context }) {
  if (!entryPoint) throw new Refused(403, 'The action has not been initialized.');
  if (running.size && !isConcurrent) throw new Refused(403, 'System not ready, status is running.');
  if (typeof value !== 'object' || value === null) {
    throw new Refused(403, 'The action did not receive a dictionary or array as an argument.');
  }
  const voice = log.begin(context.activation_id);
  for (const [name, text] of Object.entries(context)) {
    if (typeof text === 'string') process.env[`__OW_${name.toUpperCase()}`] = text;
  }
  const answer = await log.during(voice, () => perform(value));
  return [...answer, log.end(voice, true)];
}

async function perform(value) {
  let answer;
  let fail;
  const failed = new Promise((_resolve, reject) => {
    fail = reject;
  });
  running.add(fail);
  try {
    const result = await Promise.race([call(entryPoint, value), failed]);
    answer = encode(result);
  } catch (error) {
    console.error(error);
    answer = [502, { error: `An error has occurred: ${error}` }];
  }
  await log.settle();
  running.delete(fail);
  return answer;
}

function encode(result) {
  let text; // stays undefined where a toJSON() of the action's says so
  try {
    if (typeof result === 'object') text = JSON.stringify(result);
  } catch (error) {
    return [502, { error: `The action did not return a dictionary or array. It cannot be JSON: ${error.message}` }];
  }
  return text === undefined ? [502, { error: 'The action did not return a dictionary or array.' }] : [200, text];
}

// Does once, without trace, what the first activation would otherwise wait for.
async function exercise() {
  require('./archive');
  if (!entryPoint) await call(load({ main: 'main', code: 'function main(args) { return { args }; }' }), { key: 'value' });
  return [200, { ok: true }, ''];
}

process.on('uncaughtException', (error) => {
  if (running.size) { // whose it is cannot be told: the process is in no state to be trusted with any of them
    running.forEach((fail) => fail(error));
    return;
  }
  console.error(error); // between activations: the process is in no state to be trusted with another
  process.exit(1);
});

async function handle(method, path, body) {
  try {
    if (method === 'GET' && path === '/') return await exercise();
    if (method !== 'POST' || (path !== '/run' && path !== '/init')) {
      throw new Refused(404, 'There is only POST /init, POST /run and GET /.');
    }
    let request;
    try {
      request = JSON.parse(body);
    } catch (error) {
      throw new Refused(400, `The request is not valid JSON: ${error.message}`);
    }
    if (typeof request !== 'object' || request === null) throw new Refused(404, 'The request must be a JSON object.');
    return path === '/run' ? await run(request) : initialise(request);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return [error.status, { error: error.message }, ''];
  }
}

function serve(socket) {
  let chunks = [];
  let length = 0;
  let wanted = 0; // bytes of the request that is arriving, once its head is known
  let isBusy = false; // one request at a time on a connection: what comes meanwhile waits in `chunks`

  // Takes the next complete request out of `chunks`; null when it is not all there yet.
  function next() {
    if (!length || length < wanted) return null;
    const data = chunks.length === 1 ? chunks[0] : Buffer.concat(chunks, length);
    chunks = [data];
    const end = data.indexOf('\r\n\r\n');
    if (end < 0) {
      if (length > HEAD_BYTES) socket.destroy();
      return null;
    }
    const head = data.latin1Slice(0, end);
    const size = Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? 0);
    if (size > BODY_BYTES || /\r\ntransfer-encoding:/i.test(head)) {
      socket.destroy();
      return null;
    }
    const isNew = wanted === 0;
    wanted = end + 4 + size;
    if (length < wanted) {
      if (isNew && /\r\nexpect: 100-continue/i.test(head)) socket.write('HTTP/1.1 100 Continue\r\n\r\n');
      return null;
    }
    const [method, path, version] = head.split('\r\n', 1)[0].split(' ');
    const isLast = version !== 'HTTP/1.1' || /\r\nconnection: *close/i.test(head);
    const body = data.utf8Slice(end + 4, wanted);
    chunks = length > wanted ? [data.subarray(wanted)] : [];
    length -= wanted;
    wanted = 0;
    return { method, path, body, isLast };
  }

  async function answer() {
    isBusy = true;
    for (let request = next(); request; request = next()) {
      const [status, result, further] = await handle(request.method, request.path, request.body);
      const text = typeof result === 'string' ? result : JSON.stringify(result);
      const size = Buffer.byteLength(text);
      const head = `HTTP/1.1 ${status} ${REASONS[status]}\r\nContent-Type: application/json\r\nContent-Length: ${size}\r\n${further}\r\n`;
      socket.write(head + text);
      if (request.isLast) socket.end();
    }
    isBusy = false;
  }

  socket.on('data', (chunk) => {
    chunks.push(chunk);
    length += chunk.length;
    if (!isBusy) answer();
  });
  socket.on('error', () => socket.destroy());
}

net.createServer({ noDelay: true }, serve).listen(Number(process.env.__OW_PORT || 8080));
