'use strict';

// The action's log. With __OW_LOG_PIPE set: frames on a FIFO that the daemon reads, in the format of
// common/invokerd_runtime.py; the limits below are the same. Without it: plain streams and sentinels.
//
// Captured is what goes through process.stdout, process.stderr and console, and what children write that inherit them
// (children.js). Node cannot put a pipe in the place of its own descriptors 1 and 2, so what native add-ons write there is
// not. Children started with pipes (`exec`, or `spawn` as it is by default) hand their output to the action, which may print it.

const fs = require('fs');
const { Writable } = require('stream');
const { divertChildren, settle } = require('./children');

const SENTINEL = 'XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX\n';
const NO_ACTIVATION = '0'.repeat(32);
const FRAME_BYTES = 4096;
const TEXT_BYTES = 3900;
const PATIENCE_MS = 250;
const NEWLINE = 0x0a;

class PlainLog {
  begin() {}

  async settle() {}

  end(sentinel) {
    if (sentinel) {
      process.stdout.write(SENTINEL);
      process.stderr.write(SENTINEL);
    }
    return '';
  }
}

class FramedLog {
  constructor(path) {
    // Reading too: there is always a reader, so neither EOF nor EPIPE while no daemon runs.
    this.fd = fs.openSync(path, fs.constants.O_RDWR | fs.constants.O_NONBLOCK);
    this.frame = Buffer.alloc(FRAME_BYTES);
    this.rest = { o: Buffer.alloc(0), e: Buffer.alloc(0) }; // bytes of lines whose newline has not come yet
    this.clock = new Int32Array(new SharedArrayBuffer(4)); // nobody wakes it: a wait on it is a pause
    this.activationId = NO_ACTIVATION;
    this.restart();
    this.replace('stdout', 'o', 1);
    this.replace('stderr', 'e', 2);
    divertChildren();
  }

  begin(activationId) {
    const id = /^[0-9A-Za-z]{32}$/.test(activationId) ? activationId : NO_ACTIVATION;
    if (id === this.activationId) return; // /init and /run of one activation share their count
    this.closeLines();
    this.activationId = id;
    this.restart();
  }

  // Takes what is on its way when a run has ended.
  settle() {
    return settle();
  }

  // Returns the response's header line.
  end() {
    this.closeLines();
    return `X-Invokerd-Logs: ${this.written},${this.dropped}\r\n`;
  }

  restart() {
    this.written = 0;
    this.dropped = 0;
    this.patienceMs = PATIENCE_MS;
  }

  replace(name, letter, fd) {
    const stream = new Writable({
      write: (chunk, _encoding, done) => {
        this.take(letter, chunk);
        done();
      },
    });
    stream.fd = fd;
    Object.defineProperty(process, name, { value: stream, configurable: true, enumerable: true, writable: true });
  }

  take(letter, chunk) {
    let text = this.rest[letter].length ? Buffer.concat([this.rest[letter], chunk]) : chunk;
    for (let end = text.indexOf(NEWLINE); end >= 0; end = text.indexOf(NEWLINE)) {
      this.line(letter, text.subarray(0, end));
      text = text.subarray(end + 1);
    }
    this.rest[letter] = Buffer.from(this.pieces(letter, text)); // a copy: the chunk is the caller's
  }

  closeLines() {
    for (const letter of ['o', 'e']) {
      if (this.rest[letter].length) this.line(letter, this.rest[letter]);
      this.rest[letter] = Buffer.alloc(0);
    }
  }

  line(letter, text) {
    this.put(letter, this.pieces(letter, text));
  }

  // Writes a long line's pieces, but for its end, which is returned. No UTF-8 character is cut.
  pieces(letter, text) {
    while (text.length > TEXT_BYTES) {
      let end = TEXT_BYTES;
      while (end > TEXT_BYTES - 3 && (text[end] & 0xc0) === 0x80) end -= 1;
      this.put(letter.toUpperCase(), text.subarray(0, end));
      text = text.subarray(end);
    }
    return text;
  }

  // Writes one frame, or drops it once this activation has waited enough for a full pipe.
  put(letter, text) {
    const microseconds = Math.round((performance.timeOrigin + performance.now()) * 1000);
    let length = this.frame.latin1Write(`${this.activationId} ${this.written} ${letter} ${microseconds} `, 0);
    length += text.copy(this.frame, length);
    this.frame[length++] = NEWLINE;
    for (;;) {
      try {
        fs.writeSync(this.fd, this.frame, 0, length);
        this.written += 1;
        return;
      } catch (error) {
        if (error.code !== 'EAGAIN' || this.patienceMs <= 0) {
          this.dropped += 1;
          return;
        }
        const before = performance.now();
        Atomics.wait(this.clock, 0, 0, 1);
        this.patienceMs -= performance.now() - before;
      }
    }
  }
}

exports.openLog = () => (process.env.__OW_LOG_PIPE ? new FramedLog(process.env.__OW_LOG_PIPE) : new PlainLog());
