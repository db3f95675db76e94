'use strict';

// Unpacks zip and tar.gz, with what Node has: zlib. Modes and symbolic links are kept.

const fs = require('fs');
const path = require('path');
const zlib = require('zlib');

const LINK = 0o120000;
const KIND = 0o170000;

function put(directory, name, mode, content) {
  const target = path.join(directory, name);
  if (target !== directory && !target.startsWith(directory + path.sep)) {
    throw new Error(`The archive has an entry outside of itself: ${name}`);
  }
  if (name.endsWith('/')) {
    fs.mkdirSync(target, { recursive: true });
    return;
  }
  fs.mkdirSync(path.dirname(target), { recursive: true });
  if ((mode & KIND) === LINK) fs.symlinkSync(content.toString(), target);
  else fs.writeFileSync(target, content, { mode: mode & 0o777 ? (mode & 0o777) | 0o600 : 0o644 });
}

// Format: PKWARE's APPNOTE, 4.3.
function unzip(data, directory) {
  const end = data.lastIndexOf(Buffer.from('PK\x05\x06', 'latin1'));
  if (end < 0 || end + 22 > data.length) throw new Error('The zip has no end record: it is cut off or damaged.');
  const count = data.readUInt16LE(end + 10);
  let at = data.readUInt32LE(end + 16);
  for (let entry = 0; entry < count; entry += 1) {
    if (data.readUInt32LE(at) !== 0x02014b50) throw new Error('The directory of the zip is damaged.');
    const flags = data.readUInt16LE(at + 8);
    const method = data.readUInt16LE(at + 10);
    const packed = data.readUInt32LE(at + 20);
    const nameLength = data.readUInt16LE(at + 28);
    const mode = data.readUInt32LE(at + 38) >>> 16;
    const local = data.readUInt32LE(at + 42);
    const name = data.toString('utf8', at + 46, at + 46 + nameLength);
    at += 46 + nameLength + data.readUInt16LE(at + 30) + data.readUInt16LE(at + 32);
    if (flags & 1) throw new Error(`${name} in the zip is encrypted.`);
    if (packed === 0xffffffff || local === 0xffffffff) throw new Error('Zip64 archives are not supported.');
    const start = local + 30 + data.readUInt16LE(local + 26) + data.readUInt16LE(local + 28);
    const content = data.subarray(start, start + packed);
    if (method !== 0 && method !== 8) throw new Error(`${name} in the zip is packed by method ${method}; use deflate.`);
    put(directory, name, mode, method === 8 ? zlib.inflateRawSync(content) : content);
  }
}

// Format: POSIX ustar, with GNU's long names and pax' path.
function untar(data, directory) {
  const text = (start, length) => data.toString('utf8', start, start + length).split('\0', 1)[0];
  let longName = null;
  for (let at = 0; at + 512 <= data.length && data[at] !== 0; ) {
    const size = parseInt(text(at + 124, 12), 8) || 0;
    const type = String.fromCharCode(data[at + 156] || 0x30);
    const content = data.subarray(at + 512, at + 512 + size);
    const prefix = text(at + 257, 5) === 'ustar' ? text(at + 345, 155) : '';
    const name = longName ?? (prefix ? `${prefix}/` : '') + text(at, 100);
    const mode = parseInt(text(at + 100, 8), 8) || 0;
    longName = null;
    if (type === 'L') longName = content.toString().replace(/\0+$/, '');
    else if (type === 'x') longName = /\d+ path=(.*)\n/.exec(content.toString())?.[1] ?? null;
    else if (type === '5') put(directory, name.replace(/\/*$/, '/'), mode, null);
    else if (type === '2') put(directory, name, LINK, Buffer.from(text(at + 157, 100)));
    else if (type === '0' || type === '7') put(directory, name, mode, content);
    at += 512 + Math.ceil(size / 512) * 512;
  }
}

// Unpacks an archive, told by its first bytes, into an existing directory.
exports.unpack = (data, directory) => {
  if (data.readUInt16BE(0) === 0x504b) unzip(data, directory);
  else if (data.readUInt16BE(0) === 0x1f8b) untar(zlib.gunzipSync(data), directory);
  else throw new Error('The code is neither a zip nor a tar.gz archive.');
};
