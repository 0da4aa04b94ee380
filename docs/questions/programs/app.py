# A gunicorn application: /export builds a large answer, /trim gives free memory back, / does nothing.
import ctypes
import json
import random
from urllib.parse import parse_qs

EXPORTS = {}


def export(name, rows):
    document = [json.dumps({"row": i, "text": "x" * random.randint(600, 1400)}) for i in range(rows)]
    EXPORTS[name] = document[::11]  # what is offered for download later
    return b"%d rows\n" % len(document)


def application(environ, start_response):
    query = parse_qs(environ["QUERY_STRING"])
    if environ["PATH_INFO"] == "/export":
        body = export(query["name"][0], int(query.get("rows", ["20000"])[0]))
    elif environ["PATH_INFO"] == "/trim":
        ctypes.CDLL(None).malloc_trim(0)
        body = b"trimmed\n"
    else:
        body = b"ok\n"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
