# Says what it hears, over a WebSocket: with the files of a certificate and its key over TLS. Prints
# its port first.
import ssl
import sys

from websockets.sync.server import serve


def echo(connection):
    for message in connection:
        connection.send(message)


context = None
if sys.argv[1:]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
with serve(echo, "127.0.0.1", 0, ssl=context) as server:
    print(server.socket.getsockname()[1], flush=True)
    server.serve_forever()
