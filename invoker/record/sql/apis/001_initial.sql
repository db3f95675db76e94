-- APIs of the gateway: one OpenAPI (Swagger 2.0) document each, whole in memory, written through.

CREATE TABLE apis (
    namespace_uuid TEXT    NOT NULL, -- not its name: a namespace that is made anew under an old name begins without APIs
    base_path      TEXT    NOT NULL,
    updated        INTEGER NOT NULL, -- milliseconds since the epoch
    document       TEXT    NOT NULL,
    PRIMARY KEY (namespace_uuid, base_path)
) STRICT;
