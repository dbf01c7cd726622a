"""Http.

app.py         The ASGI application
connection.py  One connection, and what its client may hold and for how long
deadline.py    How long a request may take once its body has come
float_json.py  float32 vectors as JSON numbers
messages.py    What a route is, and the small part of HTTP the server needs
openapi.py     The OpenAPI 3.1 document, from the routes and the structs they decode and encode
server.py      uvicorn, with an end that loses no request
routes/        The routes, one module a family
"""
