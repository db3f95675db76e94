"""The API gateway: APIs of a namespace, each an OpenAPI document, whose operations are its web actions."""
