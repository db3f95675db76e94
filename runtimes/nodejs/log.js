'use strict';

// The action's log. With __OW_LOG_PIPE set: frames on a FIFO that the daemon reads, in the format of
// common/invokerd_runtime.py; the limits below are the same. Without it: plain streams and sentinels.
//
// Captured is what goes through process.stdout, process.stderr and console, and what children write that inherit them
// (children.js). Node cannot put a pipe in the place of its own descriptors 1 and 2, so what native add-ons write there is
// not. Where activations may run side by side (__OW_ALLOW_CONCURRENT), a line belongs to the one in whose asynchronous context it
// was written; what is written in none belongs to the one that began last. Children started with pipes (`exec`, or `spawn` as it is by default) hand their output to the action, which may print it.

const fs = require('fs');
const { AsyncLocalStorage } = require('async_hooks');
const { Writable } = require('stream');
const { divertChildren, settle } = require('./children');
const later = setTimeout; // whatever the action makes of it

const SENTINEL = 'XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX\n';
const NO_ACTIVATION = '0'.repeat(32);
const FRAME_BYTES = 4096;
const TEXT_BYTES = 3900;
const PATIENCE_MS = 250;
const UNFINISHED_MS = 100; // how long the end of a line may take before the line is told as it is so far
const EAGER = 200; // so many times an activation tells it at once: an action that computes lets no timer ring
const NEWLINE = 0x0a;

class PlainLog {
  begin() {}

  during(_voice, body) {
    return body();
  }

  async settle() {}

  end(_voice, sentinel) {
    if (sentinel) {
      process.stdout.write(SENTINEL);
      process.stderr.write(SENTINEL);
    }
    return '';
  }
}

// What one activation has said.
class Voice {
  constructor(activationId) {
    this.activationId = activationId;
    this.rest = { o: Buffer.alloc(0), e: Buffer.alloc(0) }; // bytes of lines whose newline has not come yet
    this.written = 0;
    this.dropped = 0;
    this.patienceMs = PATIENCE_MS;
    this.eager = EAGER;
    this.timer = null; // tells unfinished lines
  }
}

class FramedLog {
  constructor(path, contexts) {
    // Reading too: there is always a reader, so neither EOF nor EPIPE while no daemon runs.
    this.fd = fs.openSync(path, fs.constants.O_RDWR | fs.constants.O_NONBLOCK);
    this.frame = Buffer.alloc(FRAME_BYTES);
    this.contexts = contexts; // null: one activation at a time
    this.clock = new Int32Array(new SharedArrayBuffer(4)); // nobody wakes it: a wait on it is a pause
    this.voice = new Voice(NO_ACTIVATION);
    this.replace('stdout', 'o', 1);
    this.replace('stderr', 'e', 2);
    divertChildren();
  }

  // Begins an activation, and returns its voice.
  begin(activationId) {
    const id = /^[0-9A-Za-z]{32}$/.test(activationId) ? activationId : NO_ACTIVATION;
    if (id === this.voice.activationId) return this.voice; // /init and /run of one activation share their count
    if (!this.contexts) this.closeLines(this.voice);
    this.voice = new Voice(id);
    return this.voice;
  }

  // Runs a part of an activation: what is written in it, however much later, is that activation's.
  during(voice, body) {
    return this.contexts ? this.contexts.run(voice, body) : body();
  }

  // Takes what is on its way when a run has ended.
  settle() {
    return settle();
  }

  // Returns the response's header line.
  end(voice) {
    this.closeLines(voice);
    return `X-Invokerd-Logs: ${voice.written},${voice.dropped}\r\n`;
  }

  replace(name, letter, fd) {
    const stream = new Writable({
      write: (chunk, _encoding, done) => {
        this.take(this.contexts?.getStore() ?? this.voice, letter, chunk);
        done();
      },
    });
    stream.fd = fd;
    Object.defineProperty(process, name, { value: stream, configurable: true, enumerable: true, writable: true });
  }

  take(voice, letter, chunk) {
    let text = voice.rest[letter].length ? Buffer.concat([voice.rest[letter], chunk]) : chunk;
    for (let end = text.indexOf(NEWLINE); end >= 0; end = text.indexOf(NEWLINE)) {
      this.line(voice, letter, text.subarray(0, end));
      text = text.subarray(end + 1);
    }
    voice.rest[letter] = Buffer.from(this.pieces(voice, letter, text)); // a copy: the chunk is the caller's
    if (!text.length) return;
    if (voice.eager > 0) {
      voice.eager -= 1;
      this.tellUnfinished(voice, letter);
    } else {
      voice.timer ??= later(() => {
        voice.timer = null;
        ['o', 'e'].forEach((each) => this.tellUnfinished(voice, each));
      }, UNFINISHED_MS).unref();
    }
  }

  // Tells what a line is so far, in a frame that does not count: a process that is killed has said it.
  tellUnfinished(voice, letter) {
    const text = voice.rest[letter];
    if (!text.length) return;
    const length = this.fill(voice, letter === 'o' ? 'h' : 'H', text);
    try {
      fs.writeSync(this.fd, this.frame, 0, length);
    } catch {
      // the pipe is full: what is in it says more
    }
  }

  closeLines(voice) {
    for (const letter of ['o', 'e']) {
      if (voice.rest[letter].length) this.line(voice, letter, voice.rest[letter]);
      voice.rest[letter] = Buffer.alloc(0);
    }
  }

  line(voice, letter, text) {
    this.put(voice, letter, this.pieces(voice, letter, text));
  }

  // Writes a long line's pieces, but for its end, which is returned. No UTF-8 character is cut.
  pieces(voice, letter, text) {
    while (text.length > TEXT_BYTES) {
      let end = TEXT_BYTES;
      while (end > TEXT_BYTES - 3 && (text[end] & 0xc0) === 0x80) end -= 1;
      this.put(voice, letter.toUpperCase(), text.subarray(0, end));
      text = text.subarray(end);
    }
    return text;
  }

  // Makes a frame; returns its length.
  fill(voice, letter, text) {
    const microseconds = Math.round((performance.timeOrigin + performance.now()) * 1000);
    let length = this.frame.latin1Write(`${voice.activationId} ${voice.written} ${letter} ${microseconds} `, 0);
    length += text.copy(this.frame, length);
    this.frame[length++] = NEWLINE;
    return length;
  }

  // Writes one frame, or drops it once this activation has waited enough for a full pipe.
  put(voice, letter, text) {
    const length = this.fill(voice, letter, text);
    for (;;) {
      try {
        fs.writeSync(this.fd, this.frame, 0, length);
        voice.written += 1;
        return;
      } catch (error) {
        if (error.code !== 'EAGAIN' || voice.patienceMs <= 0) {
          voice.dropped += 1;
          return;
        }
        const before = performance.now();
        Atomics.wait(this.clock, 0, 0, 1);
        voice.patienceMs -= performance.now() - before;
      }
    }
  }
}

// Opens the log. `isConcurrent`: activations may run side by side.
exports.openLog = (isConcurrent) => {
  if (!process.env.__OW_LOG_PIPE) return new PlainLog();
  return new FramedLog(process.env.__OW_LOG_PIPE, isConcurrent ? new AsyncLocalStorage() : null);
};
