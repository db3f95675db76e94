-- Alarms: whole in memory, written through. How far each has come: activations.db, alarm_progress.

CREATE TABLE alarms (
    namespace TEXT NOT NULL,
    trigger   TEXT NOT NULL,      -- name of the trigger that it fires
    value     TEXT NOT NULL,      -- JSON of Alarm
    PRIMARY KEY (namespace, trigger)
) STRICT;
