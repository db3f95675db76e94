-- One month of the ledger: facts in integers, appended, never changed.

CREATE TABLE ledger (
    seq                INTEGER PRIMARY KEY,          -- order of arrival, without gaps
    node               TEXT    NOT NULL,
    subject            TEXT    NOT NULL,             -- activation or container
    type               TEXT    NOT NULL CHECK (type IN ('accepted', 'begun', 'finished', 'tail', 'idle', 'container', 'correction')),
    part               INTEGER NOT NULL DEFAULT 0,   -- tells several of one type and subject apart; finished has only 0
    at_ms              INTEGER NOT NULL,             -- wall clock: of a finished row, its start
    namespace          TEXT    NOT NULL,             -- who pays
    action             TEXT    NOT NULL DEFAULT '',  -- ns/[package/]name
    actor              TEXT    NOT NULL DEFAULT '',  -- who called, or who corrected
    version            TEXT    NOT NULL DEFAULT '',
    kind               TEXT    NOT NULL DEFAULT '',
    container          TEXT,
    cause              TEXT,
    transaction_id     TEXT    NOT NULL DEFAULT '',
    end_ms             INTEGER,
    status             INTEGER CHECK (status BETWEEN 0 AND 3),
    outcome            TEXT,
    start_kind         TEXT,
    timed_out          INTEGER NOT NULL DEFAULT 0,
    memory_limit_mib   INTEGER NOT NULL DEFAULT 0,
    billed_us          INTEGER NOT NULL DEFAULT 0,
    cpu_us             INTEGER NOT NULL DEFAULT 0,
    cpu_quality        TEXT,
    peak_bytes         INTEGER NOT NULL DEFAULT 0,
    peak_quality       TEXT,
    anonymous_bytes    INTEGER NOT NULL DEFAULT 0,
    shared_bytes       INTEGER NOT NULL DEFAULT 0,
    cache_bytes        INTEGER NOT NULL DEFAULT 0,
    throttled_us       INTEGER NOT NULL DEFAULT 0,
    oom_kills          INTEGER NOT NULL DEFAULT 0,
    request_bytes      INTEGER NOT NULL DEFAULT 0,
    response_bytes     INTEGER NOT NULL DEFAULT 0,
    authenticate_us    INTEGER NOT NULL DEFAULT 0,
    authorise_us       INTEGER NOT NULL DEFAULT 0,
    resolve_us         INTEGER NOT NULL DEFAULT 0,
    queue_us           INTEGER NOT NULL DEFAULT 0,
    pull_us            INTEGER NOT NULL DEFAULT 0,
    create_us          INTEGER NOT NULL DEFAULT 0,
    thaw_us            INTEGER NOT NULL DEFAULT 0,
    init_us            INTEGER NOT NULL DEFAULT 0,
    run_us             INTEGER NOT NULL DEFAULT 0,
    collect_us         INTEGER NOT NULL DEFAULT 0,
    memory_mib_us      INTEGER NOT NULL DEFAULT 0,   -- of idle: whole MiB-microseconds ...
    memory_byte_us     INTEGER NOT NULL DEFAULT 0,   -- ... and the rest below one, byte-microseconds
    fact               TEXT,                         -- of a container: created, removed
    reason             TEXT,                         -- of a correction
    UNIQUE (subject, type, part, node)
) STRICT;

CREATE INDEX ledger_by_time ON ledger (at_ms, namespace);

CREATE TRIGGER ledger_is_never_updated BEFORE UPDATE ON ledger
BEGIN
    SELECT RAISE(ABORT, 'the ledger is append-only: write a correction');
END;

CREATE TRIGGER ledger_is_never_deleted BEFORE DELETE ON ledger
BEGIN
    SELECT RAISE(ABORT, 'the ledger is append-only: write a correction');
END;

-- Up to which sequence of the journal this file, and all other months, hold every record; only the newest month has it.
CREATE TABLE journal_position (
    only     INTEGER PRIMARY KEY CHECK (only = 1),
    position INTEGER NOT NULL
) STRICT;
