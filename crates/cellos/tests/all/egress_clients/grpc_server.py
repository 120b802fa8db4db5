# Answers a call and a stream of calls over gRPC. Prints its port first.
import concurrent.futures
import sys

import grpc


class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/test.Echo/Say":
            return grpc.unary_unary_rpc_method_handler(lambda said, _: b"heard " + said)
        if details.method == "/test.Echo/Stream":
            return grpc.stream_stream_rpc_method_handler(lambda all, _: (said for said in all))
        return None


certificate, key = (open(path, "rb").read() for path in sys.argv[1:])
server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=4))
server.add_generic_rpc_handlers((Echo(),))
port = server.add_secure_port(
    "127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)])
)
server.start()
print(port, flush=True)
server.wait_for_termination()
