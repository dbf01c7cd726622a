"""HTTP: connections, requests and responses.

app.py         ASGI application: finds the route of a request, runs it, turns errors into responses
connection.py  HTTP connection with limits for slow, large and too many requests
deadline.py    Request timeout, from the client's header and the server's setting
float_json.py  float32 vectors as JSON numbers with the fewest digits
messages.py    Definition of a route; reading request bodies and sending responses
openapi.py     OpenAPI document, generated from the routes
server.py      uvicorn with a graceful shutdown
routes/        Routes, one module per API
"""
