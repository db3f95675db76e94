-- name: read_apis
-- All APIs. The documents as bytes: what is no UTF-8 any more must not hold up the others.
SELECT namespace_uuid, base_path, updated, CAST(document AS BLOB) FROM apis ORDER BY namespace_uuid, base_path;

-- name: put_api
-- Write an API over the one of its base path.
INSERT INTO apis (namespace_uuid, base_path, updated, document) VALUES (:namespace_uuid, :base_path, :updated, :document)
ON CONFLICT (namespace_uuid, base_path) DO UPDATE SET updated = excluded.updated, document = excluded.document;

-- name: delete_api
-- Delete an API.
DELETE FROM apis WHERE namespace_uuid = :namespace_uuid AND base_path = :base_path;

-- name: delete_apis_of_the_gone
-- Delete the APIs of namespaces that are gone; a JSON array of the uuids that are not.
DELETE FROM apis WHERE namespace_uuid NOT IN (SELECT value FROM json_each(:uuids));
