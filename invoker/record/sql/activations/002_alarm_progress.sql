-- How far each alarm has come: written with what its tick fired, so that every tick fires once.

CREATE TABLE alarm_progress (
    alarm_id TEXT    PRIMARY KEY,
    at_ms    INTEGER NOT NULL,      -- the last tick, the moment it was scheduled for
    fired    INTEGER NOT NULL       -- how many ticks have
) STRICT;
