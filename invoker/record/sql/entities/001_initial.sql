-- Namespaces and entities: whole in memory, written through.

CREATE TABLE namespaces (
    name  TEXT PRIMARY KEY,
    uuid  TEXT NOT NULL UNIQUE,
    value TEXT NOT NULL          -- JSON of Namespace
) STRICT;

-- One tree of names for actions, packages, triggers and rules.
CREATE TABLE entities (
    namespace  TEXT    NOT NULL,
    path       TEXT    NOT NULL, -- [package/]name
    collection TEXT    NOT NULL,
    updated    INTEGER NOT NULL,
    value      TEXT    NOT NULL, -- JSON of the entity, tagged
    PRIMARY KEY (namespace, path)
) STRICT;

CREATE TRIGGER entities_go_with_their_namespace AFTER DELETE ON namespaces
BEGIN
    DELETE FROM entities WHERE namespace = OLD.name;
END;
