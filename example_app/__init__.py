"""A billing service, as the example of `audit_middleware`.

``app.py`` puts it together and adds the middleware; ``routers/`` are the business; ``demo`` runs and shows it all.
"""
