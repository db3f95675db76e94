-- Activations as users see them: records, and apart from these results and logs, which are kept for shorter.

PRAGMA auto_vacuum = INCREMENTAL;

CREATE TABLE records (
    id            INTEGER PRIMARY KEY,
    activation_id TEXT    NOT NULL UNIQUE,
    namespace     TEXT    NOT NULL,
    action        TEXT    NOT NULL,      -- [package/]name, what a list is filtered by
    start_ms      INTEGER NOT NULL,
    bytes         INTEGER NOT NULL,
    record        TEXT    NOT NULL       -- JSON of Activation without the result
) STRICT;

CREATE INDEX records_by_start ON records (namespace, start_ms, bytes);
CREATE INDEX records_by_action ON records (namespace, action, start_ms);
CREATE INDEX records_by_age ON records (start_ms);

CREATE TABLE results (
    id            INTEGER PRIMARY KEY,
    activation_id TEXT    NOT NULL UNIQUE,
    namespace     TEXT    NOT NULL,
    start_ms      INTEGER NOT NULL,
    bytes         INTEGER NOT NULL,
    result        TEXT    NOT NULL       -- JSON, byte for byte as the runtime sent it
) STRICT;

CREATE INDEX results_by_start ON results (namespace, start_ms, bytes);
CREATE INDEX results_by_age ON results (start_ms);

CREATE TABLE logs (
    id            INTEGER PRIMARY KEY,
    activation_id TEXT    NOT NULL UNIQUE,
    namespace     TEXT    NOT NULL,
    start_ms      INTEGER NOT NULL,
    bytes         INTEGER NOT NULL,
    lines         TEXT    NOT NULL       -- JSON array of strings
) STRICT;

CREATE INDEX logs_by_start ON logs (namespace, start_ms, bytes);
CREATE INDEX logs_by_age ON logs (start_ms);

-- Accepted and not yet finished: what a restart must run, or end as lost.
CREATE TABLE pending (
    activation_id TEXT    PRIMARY KEY,
    begun         INTEGER NOT NULL DEFAULT 0,
    accepted      TEXT    NOT NULL,      -- JSON of Accepted without the payload
    payload       TEXT    NOT NULL       -- JSON, as the caller sent it
) STRICT;

CREATE TABLE idempotency (
    namespace     TEXT    NOT NULL,
    action        TEXT    NOT NULL,      -- ns/[package/]name
    key           TEXT    NOT NULL,
    activation_id TEXT    NOT NULL,
    body_sha256   TEXT    NOT NULL,
    accepted_ms   INTEGER NOT NULL,
    PRIMARY KEY (namespace, action, key)
) STRICT;

CREATE TABLE journal_position (
    only     INTEGER PRIMARY KEY CHECK (only = 1),
    position INTEGER NOT NULL
) STRICT;
