"""The API's description of itself: one list of operations and schemas, rendered as OpenAPI 3.1, as Swagger 2.0, and as a page."""
