"""What Starlette and FastAPI will do with a request, asked of themselves.

`marks` is the ``@action`` decorator, `starlette` reads one router level, `fastapi` its included routers and frontends,
`guard` stands in front of every router's match loop, `inventory` lists what there is. Nothing here decides anything.
"""
