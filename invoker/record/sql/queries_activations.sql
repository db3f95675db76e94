-- name: write_position
-- Remember up to where the journal is in this database.
INSERT INTO journal_position (only, position) VALUES (1, :position)
ON CONFLICT (only) DO UPDATE SET position = max(position, excluded.position);

-- name: read_position
-- Up to where the journal is in this database.
SELECT position FROM journal_position;

-- name: add_records
-- Add one record, a RecordRow and its bytes. The first record of an activation stays.
INSERT INTO records (activation_id, namespace, action, start_ms, record, bytes)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (activation_id) DO NOTHING;

-- name: add_results
-- Add one result, a TextRow and its bytes. The first result of an activation stays.
INSERT INTO results (activation_id, namespace, start_ms, result, bytes)
VALUES (?, ?, ?, ?, ?)
ON CONFLICT (activation_id) DO NOTHING;

-- name: add_logs
-- Add the log lines of one activation, a TextRow and its bytes. The first lines given for an activation stay.
INSERT INTO logs (activation_id, namespace, start_ms, lines, bytes)
VALUES (?, ?, ?, ?, ?)
ON CONFLICT (activation_id) DO NOTHING;

-- name: add_pending
-- Add promises, a JSON array of PendingRow, unless they were kept already.
INSERT INTO pending (activation_id, accepted, payload)
SELECT value ->> 'activation_id', value ->> 'accepted', value ->> 'payload'
FROM json_each(:rows)
WHERE NOT EXISTS (SELECT 1 FROM records WHERE records.activation_id = value ->> 'activation_id')
ON CONFLICT (activation_id) DO NOTHING;

-- name: mark_begun
-- Remember that these may have run; a JSON array of ids.
UPDATE pending SET begun = 1 WHERE activation_id IN (SELECT value FROM json_each(:ids));

-- name: drop_pending
-- Forget the promises that were kept; a JSON array of ids.
DELETE FROM pending WHERE activation_id IN (SELECT value FROM json_each(:ids));

-- name: read_pending
-- The promises not kept yet, in the order they were made. Texts as bytes: what is no UTF-8 must not hold up the others.
SELECT activation_id, CAST(accepted AS BLOB), CAST(payload AS BLOB), begun FROM pending ORDER BY rowid;

-- name: read_pending_ids
-- The same, their ids alone.
SELECT activation_id FROM pending;

-- name: add_idempotency
-- Add idempotency keys, a JSON array of IdempotencyRow; a key whose time is over may be used again.
INSERT INTO idempotency (namespace, action, key, activation_id, body_sha256, accepted_ms)
SELECT value ->> 'namespace', value ->> 'action', value ->> 'key', value ->> 'activation_id', value ->> 'body_sha256',
       value ->> 'accepted_ms'
FROM json_each(:rows)
WHERE true
ON CONFLICT (namespace, action, key) DO UPDATE
SET activation_id = excluded.activation_id, body_sha256 = excluded.body_sha256, accepted_ms = excluded.accepted_ms
WHERE excluded.accepted_ms >= idempotency.accepted_ms + :keep_ms;

-- name: read_idempotency
-- The idempotency keys that still count, oldest first.
SELECT namespace, action, key, activation_id, body_sha256, accepted_ms FROM idempotency
WHERE accepted_ms >= :since_ms ORDER BY accepted_ms;

-- name: drop_idempotency
-- Forget idempotency keys whose time is over.
DELETE FROM idempotency WHERE accepted_ms < :before_ms;

-- name: add_ticks
-- Remember how far alarms have come; a JSON array of TickEntry, in order.
INSERT INTO alarm_progress (alarm_id, at_ms, fired)
SELECT value ->> 'alarm_id', value ->> 'at_ms', value ->> 'fired' FROM json_each(:rows) WHERE true
ON CONFLICT (alarm_id) DO UPDATE SET at_ms = excluded.at_ms, fired = excluded.fired WHERE excluded.fired >= alarm_progress.fired;

-- name: drop_ticks
-- Forget the alarms that are no more; a JSON array of TickEntry.
DELETE FROM alarm_progress WHERE alarm_id IN (SELECT value ->> 'alarm_id' FROM json_each(:rows) WHERE value ->> 'gone');

-- name: read_ticks
-- How far each alarm has come.
SELECT alarm_id, at_ms, fired FROM alarm_progress;

-- name: get
-- One record and its result. As bytes: what is no UTF-8 must not hold up the others.
SELECT r.activation_id, CAST(r.record AS BLOB), CAST(s.result AS BLOB) FROM records r LEFT JOIN results s USING (activation_id)
WHERE r.activation_id = :id AND r.namespace = :namespace;

-- name: get_logs
-- The lines of one record; NULL where it has none.
SELECT CAST(l.lines AS BLOB) FROM records r LEFT JOIN logs l USING (activation_id)
WHERE r.activation_id = :id AND r.namespace = :namespace;

-- name: list
-- Records with results, latest start first, without those whose logs are still awaited. What is left out is counted off in the
-- index alone.
SELECT r.activation_id, CAST(r.record AS BLOB), CAST(s.result AS BLOB) FROM (
    SELECT id FROM records
    WHERE namespace = :namespace AND start_ms >= :since_ms AND start_ms <= :upto_ms
      AND id NOT IN (SELECT id FROM records WHERE activation_id IN (SELECT value FROM json_each(:hidden)))
    ORDER BY start_ms DESC, id DESC LIMIT :limit OFFSET :skip
) JOIN records r USING (id) LEFT JOIN results s USING (activation_id)
ORDER BY r.start_ms DESC, r.id DESC;

-- name: list_of_action
-- The same of one action.
SELECT r.activation_id, CAST(r.record AS BLOB), CAST(s.result AS BLOB) FROM (
    SELECT id FROM records
    WHERE namespace = :namespace AND action = :name AND start_ms >= :since_ms AND start_ms <= :upto_ms
      AND id NOT IN (SELECT id FROM records WHERE activation_id IN (SELECT value FROM json_each(:hidden)))
    ORDER BY start_ms DESC, id DESC LIMIT :limit OFFSET :skip
) JOIN records r USING (id) LEFT JOIN results s USING (activation_id)
ORDER BY r.start_ms DESC, r.id DESC;

-- name: parts_of
-- The parts of one sequence or composition, in the order they ran: for a restart, it reads all records since then.
SELECT activation_id, CAST(record AS BLOB) FROM records
WHERE namespace = :namespace AND start_ms >= :since_ms AND json_valid(record) AND record ->> 'cause' = :cause
ORDER BY start_ms, id;

-- name: count
-- How many there are.
SELECT count(*) FROM records
WHERE namespace = :namespace AND start_ms >= :since_ms AND start_ms <= :upto_ms
  AND id NOT IN (SELECT id FROM records WHERE activation_id IN (SELECT value FROM json_each(:hidden)));

-- name: count_of_action
-- How many there are of one action.
SELECT count(*) FROM records
WHERE namespace = :namespace AND action = :name AND start_ms >= :since_ms AND start_ms <= :upto_ms
  AND id NOT IN (SELECT id FROM records WHERE activation_id IN (SELECT value FROM json_each(:hidden)));

-- name: expire_records
-- Delete records of a certain age, at most so many at once.
DELETE FROM records WHERE id IN (SELECT id FROM records WHERE start_ms < :before_ms LIMIT :limit);

-- name: expire_results
-- Delete results of a certain age, at most so many at once.
DELETE FROM results WHERE id IN (SELECT id FROM results WHERE start_ms < :before_ms LIMIT :limit);

-- name: expire_logs
-- Delete log lines of a certain age, at most so many at once.
DELETE FROM logs WHERE id IN (SELECT id FROM logs WHERE start_ms < :before_ms LIMIT :limit);

-- name: sizes_of_records
-- How many bytes of records each namespace has.
SELECT namespace, sum(bytes) FROM records GROUP BY namespace;

-- name: sizes_of_results
-- How many bytes of results each namespace has.
SELECT namespace, sum(bytes) FROM results GROUP BY namespace;

-- name: sizes_of_logs
-- How many bytes of log lines each namespace has.
SELECT namespace, sum(bytes) FROM logs GROUP BY namespace;

-- name: size_of_records
-- How many bytes of records one namespace has.
SELECT coalesce(sum(bytes), 0) FROM records WHERE namespace = :namespace;

-- name: size_of_results
-- How many bytes of results one namespace has.
SELECT coalesce(sum(bytes), 0) FROM results WHERE namespace = :namespace;

-- name: size_of_logs
-- How many bytes of log lines one namespace has.
SELECT coalesce(sum(bytes), 0) FROM logs WHERE namespace = :namespace;

-- name: trim_records
-- Delete the oldest records of a namespace until `excess` bytes are gone, at most so many at once; tell what each had.
DELETE FROM records WHERE id IN (
    SELECT id FROM (
        SELECT id, sum(bytes) OVER (ORDER BY start_ms, id) - bytes AS gone
        FROM (SELECT id, start_ms, bytes FROM records WHERE namespace = :namespace ORDER BY start_ms, id LIMIT :limit)
    ) WHERE gone < :excess
) RETURNING bytes;

-- name: trim_results
-- Delete the oldest results of a namespace until `excess` bytes are gone, at most so many at once; tell what each had.
DELETE FROM results WHERE id IN (
    SELECT id FROM (
        SELECT id, sum(bytes) OVER (ORDER BY start_ms, id) - bytes AS gone
        FROM (SELECT id, start_ms, bytes FROM results WHERE namespace = :namespace ORDER BY start_ms, id LIMIT :limit)
    ) WHERE gone < :excess
) RETURNING bytes;

-- name: trim_logs
-- Delete the oldest log lines of a namespace until `excess` bytes are gone, at most so many at once; tell what each had.
DELETE FROM logs WHERE id IN (
    SELECT id FROM (
        SELECT id, sum(bytes) OVER (ORDER BY start_ms, id) - bytes AS gone
        FROM (SELECT id, start_ms, bytes FROM logs WHERE namespace = :namespace ORDER BY start_ms, id LIMIT :limit)
    ) WHERE gone < :excess
) RETURNING bytes;

-- name: shrink
-- Give pages that are free to the file system, at most so many at once (4 KiB each).
PRAGMA incremental_vacuum(2000);
