"""The page, and the commands over HTTP (extra: web): app.py is the application, server.py serves it."""
