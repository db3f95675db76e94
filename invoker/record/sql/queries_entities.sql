-- name: read_namespaces
-- All namespaces. As bytes: what is no UTF-8 any more must not hold up the others.
SELECT CAST(name AS BLOB), CAST(value AS BLOB) FROM namespaces ORDER BY name;

-- name: put_namespace
-- Write a namespace over the one of its name.
INSERT INTO namespaces (name, uuid, value) VALUES (:name, :uuid, :value)
ON CONFLICT (name) DO UPDATE SET uuid = excluded.uuid, value = excluded.value;

-- name: delete_namespace
-- Delete a namespace; its entities go with it.
DELETE FROM namespaces WHERE name = :name;

-- name: read_entities
-- All entities, last written last. As bytes, like the namespaces.
SELECT CAST(namespace AS BLOB), CAST(path AS BLOB), CAST(value AS BLOB) FROM entities ORDER BY updated, rowid;

-- name: put_entity
-- Write an entity over the one of its path.
INSERT INTO entities (namespace, path, collection, updated, value) VALUES (:namespace, :path, :collection, :updated, :value)
ON CONFLICT (namespace, path) DO UPDATE
SET collection = excluded.collection, updated = excluded.updated, value = excluded.value;

-- name: delete_entity
-- Delete an entity.
DELETE FROM entities WHERE namespace = :namespace AND path = :path;
