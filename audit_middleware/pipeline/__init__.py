"""The steps of one request, in order: resolve, identify, load and body, decide, limit, answer, observe, record, append.

Each is a module; none imports another. They share the values of `model`, the request's `facts`, and meet in
`audit_middleware.middleware` only. `inventory` is the first three steps asked for every route at start.
"""
