-- Rows go in by their full key, once: a conflict of that key, and of nothing else, is passed over. (`INSERT OR IGNORE` would
-- pass over a row that breaks another rule too, and lose it silently.)

-- name: write_position
-- Remember up to where the journal is in the ledger.
INSERT INTO journal_position (only, position) VALUES (1, :position)
ON CONFLICT (only) DO UPDATE SET position = max(position, excluded.position);

-- name: read_position
-- Up to where the journal is in the ledger.
SELECT position FROM journal_position;

-- name: is_finished
-- Which of these activations this month has a finished row for.
SELECT subject FROM ledger WHERE type = 'finished' AND part = 0 AND subject IN (SELECT value FROM json_each(:ids));

-- name: accepted
-- Add the promises; the parameter is a JSON array of AcceptedEntry.accepted.
INSERT INTO ledger (node, subject, type, at_ms, namespace, action, actor, cause, transaction_id)
SELECT :node, value ->> 'activation_id', 'accepted', value ->> 'accepted_ms', value ->> 'namespace', value ->> 'path',
       value ->> 'subject', value ->> 'cause', value ->> 'transaction'
FROM json_each(:rows)
WHERE true
ON CONFLICT (subject, type, part, node) DO NOTHING;

-- name: begun
-- Add the beginnings; a JSON array of BegunEntry.
INSERT INTO ledger (node, subject, type, at_ms, namespace, action)
SELECT :node, value ->> 'activation_id', 'begun', value ->> 'at_ms', value ->> 'namespace', value ->> 'path'
FROM json_each(:rows)
WHERE true
ON CONFLICT (subject, type, part, node) DO NOTHING;

-- name: finished
-- Add one end: by far the most frequent row, so its values are bound and not taken out of JSON; `ledger.finished_values`.
INSERT INTO ledger (
    node, subject, type, at_ms, namespace, action, actor, version, kind, container, cause, transaction_id, end_ms, status,
    outcome, start_kind, timed_out, memory_limit_mib, billed_us, cpu_us, cpu_quality, peak_bytes, peak_quality,
    anonymous_bytes, shared_bytes, cache_bytes, throttled_us, oom_kills, request_bytes, response_bytes,
    authenticate_us, authorise_us, resolve_us, queue_us, pull_us, create_us, thaw_us, init_us, run_us, collect_us
)
VALUES (
    ?, ?, 'finished', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
    ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?
)
ON CONFLICT (subject, type, part, node) DO NOTHING;

-- name: tail
-- Add CPU time used after the reply; a JSON array of TailEntry.
INSERT INTO ledger (node, subject, type, part, at_ms, namespace, action, cpu_us)
SELECT :node, value ->> 'activation_id', 'tail', value ->> 'part', value ->> 'at_ms', value ->> 'namespace', value ->> 'path',
       value ->> 'cpu_us'
FROM json_each(:rows)
WHERE true
ON CONFLICT (subject, type, part, node) DO NOTHING;

-- name: idle
-- Add memory held by idle containers; a JSON array of IdleEntry.
INSERT INTO ledger (
    node, subject, type, part, at_ms, namespace, action, container, memory_mib_us, memory_byte_us, cpu_us
)
SELECT :node, value ->> 'container', 'idle', value ->> 'part', value ->> 'at_ms', value ->> 'namespace', value ->> 'path',
       value ->> 'container', value ->> 'memory_mib_us', value ->> 'memory_byte_us', value ->> 'cpu_us'
FROM json_each(:rows)
WHERE true
ON CONFLICT (subject, type, part, node) DO NOTHING;

-- name: container
-- Add the lives of containers; a JSON array of ContainerEntry.
INSERT INTO ledger (node, subject, type, part, at_ms, namespace, action, container, fact, cpu_us)
SELECT :node, value ->> 'container', 'container', value ->> 'part', value ->> 'at_ms', value ->> 'namespace',
       value ->> 'path', value ->> 'container', value ->> 'fact', value ->> 'cpu_us'
FROM json_each(:rows)
WHERE true
ON CONFLICT (subject, type, part, node) DO NOTHING;

-- name: correction
-- Add corrections; a JSON array of Correction.
INSERT INTO ledger (
    node, subject, type, part, at_ms, namespace, action, actor, reason, billed_us, cpu_us, memory_mib_us
)
SELECT :node, value ->> 'subject', 'correction', value ->> 'key', value ->> 'at_ms', value ->> 'namespace', value ->> 'path',
       value ->> 'author', value ->> 'reason', value ->> 'billed_us', value ->> 'cpu_us', value ->> 'memory_mib_us'
FROM json_each(:rows)
WHERE true
ON CONFLICT (subject, type, part, node) DO NOTHING;

-- name: usage
-- Sum one month by namespace, action, type and outcome, with the billed duration rounded as a price plan says.
-- Sums are of quantities that cannot overflow: MiB-microseconds, never byte-microseconds, never money.
-- A sequence or composition (kind `sequence`) is charged nothing: its parts have rows of their own.
WITH rated AS (
    SELECT namespace, action, type, outcome, status, billed_us, cpu_us, memory_limit_mib, memory_mib_us, memory_byte_us,
           type = 'finished' AND kind <> 'sequence'
               AND (billed_us > 0 OR (status <> 3 AND outcome <> 'cancelled')) AS charged,
           CASE WHEN :bill_init THEN billed_us ELSE max(billed_us - init_us, 0) END AS time_us
    FROM ledger
    WHERE at_ms >= :since_ms AND at_ms < :upto_ms AND (:namespace IS NULL OR namespace = :namespace)
      AND type IN ('finished', 'tail', 'idle', 'correction')
),
rounded AS (
    SELECT *, CASE WHEN time_us = 0 THEN 0 ELSE max((time_us + :step_us - 1) / :step_us * :step_us, :minimum_us) END AS rounded_us
    FROM rated
)
SELECT namespace, action, type, coalesce(outcome, ''), coalesce(status, 0), count(*), sum(billed_us), sum(cpu_us),
       sum(memory_limit_mib * billed_us), sum(memory_mib_us), sum(memory_byte_us),
       sum(charged), sum(charged * rounded_us * memory_limit_mib), sum(charged * cpu_us)
FROM rounded
GROUP BY 1, 2, 3, 4, 5;

-- name: cpu_used
-- CPU time by namespace and step of a window, of what ended in `since_ms <= end < upto_ms`, and had begun by `began_ms` at the earliest.
SELECT namespace, coalesce(end_ms, at_ms) / :step_ms, sum(cpu_us)
FROM ledger
WHERE at_ms >= :began_ms AND at_ms < :upto_ms AND type IN ('finished', 'tail')
  AND coalesce(end_ms, at_ms) >= :since_ms AND coalesce(end_ms, at_ms) < :upto_ms
GROUP BY 1, 2
HAVING sum(cpu_us) > 0;

-- name: history
-- Activations that ran in a container, by their start: what a simulation of the pool plays again.
SELECT at_ms, namespace, action, memory_limit_mib, run_us, CASE WHEN start_kind = 'cold' THEN create_us + init_us ELSE 0 END
FROM ledger
WHERE type = 'finished' AND kind <> 'sequence' AND container IS NOT NULL AND at_ms >= :since_ms AND at_ms < :upto_ms
ORDER BY at_ms;

-- name: export
-- A page of rows in the order of their time, from (at_ms, seq) on, excluded; the columns are export.COLUMNS.
SELECT seq, node, subject, type, part, at_ms, end_ms, namespace, action, actor, version, kind, container, cause, transaction_id,
       status, outcome, start_kind, timed_out, memory_limit_mib, billed_us, cpu_us, cpu_quality, peak_bytes, peak_quality,
       anonymous_bytes, shared_bytes, cache_bytes, throttled_us, oom_kills, request_bytes, response_bytes,
       authenticate_us, authorise_us, resolve_us, queue_us, pull_us, create_us, thaw_us, init_us, run_us, collect_us,
       memory_mib_us, memory_byte_us, fact, reason
FROM ledger
WHERE at_ms >= :since_ms AND at_ms < :upto_ms AND (at_ms, seq) > (:at_ms, :seq)
  AND (:namespace IS NULL OR namespace = :namespace)
  AND (:every_type OR type IN ('finished', 'tail', 'idle', 'correction'))
ORDER BY at_ms, seq
LIMIT :page;

-- name: to_correct
-- Whose bill an activation or container is on, and when: what a correction of it is filed with.
SELECT namespace, action, at_ms FROM ledger
WHERE subject = :subject AND type IN ('finished', 'tail', 'idle')
ORDER BY type = 'finished' DESC, at_ms
LIMIT 1;

-- name: corrected
-- What a correction of this key says, if there is one.
SELECT cpu_us, memory_mib_us, reason FROM ledger WHERE subject = :subject AND type = 'correction' AND part = :key;
