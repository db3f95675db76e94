-- name: read_alarms
-- All alarms. As bytes: what is no UTF-8 any more must not hold up the others.
SELECT CAST(namespace || '/' || trigger AS BLOB), CAST(value AS BLOB) FROM alarms ORDER BY namespace, trigger;

-- name: put_alarm
-- Write an alarm over the one of its trigger.
INSERT INTO alarms (namespace, trigger, value) VALUES (:namespace, :trigger, :value)
ON CONFLICT (namespace, trigger) DO UPDATE SET value = excluded.value;

-- name: delete_alarm
-- Delete the alarm of a trigger.
DELETE FROM alarms WHERE namespace = :namespace AND trigger = :trigger;
