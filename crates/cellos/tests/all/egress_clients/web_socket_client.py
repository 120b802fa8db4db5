# Sends messages of growing size over a WebSocket and compares what comes back.
import ssl
import sys

from websockets.sync.client import connect

host, port, authority = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
with connect(f"wss://{host}:{port}/", ssl=context) as connection:
    heard = 0
    for number in range(100):
        message = str(number) * number * 100
        connection.send(message)
        heard += connection.recv() == message
    print(f"heard {heard} of 100")
