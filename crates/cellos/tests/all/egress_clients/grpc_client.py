# Makes a call and a stream of calls over gRPC.
import sys

import grpc

host, port, authority = sys.argv[1:]
credentials = grpc.ssl_channel_credentials(open(authority, "rb").read())
with grpc.secure_channel(f"{host}:{port}", credentials) as channel:
    say = channel.unary_unary("/test.Echo/Say")
    print(say(b"one", timeout=20).decode())
    stream = channel.stream_stream("/test.Echo/Stream")
    sent = [str(number).encode() * 1000 for number in range(100)]
    heard = list(stream(iter(sent), timeout=20))
    print(f"streamed {sum(a == b for a, b in zip(sent, heard))} of 100")
