# SPDX-License-Identifier: Apache-2.0
"""An OTLP receiver on OpenTelemetry's own protobuf classes and Google's gRPC: a decoder that shares no code with the gateway.

*In*: metrics, traces and logs over gRPC and over HTTP with protobuf. *Out*: a line of JSON for each export request, on standard
output. *Never*: a message that the official classes do not decode, or a field that they do not know: the request is refused.

    otlp_receiver.py --grpc PORT --http PORT

POST /answers?transport=http&signal=traces&answer=busy makes the next request of that transport and signal fail (503 with
Retry-After: 1, or UNAVAILABLE); answer=partial refuses one item of it.
"""
import argparse
import collections
import concurrent.futures
import gzip
import http.server
import json
import threading
import urllib.parse

import grpc
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

RETRY_SECONDS = 1
SIGNALS = {
    "metrics": (metrics_service_pb2.ExportMetricsServiceRequest, metrics_service_pb2.ExportMetricsServiceResponse, "rejected_data_points"),
    "traces": (trace_service_pb2.ExportTraceServiceRequest, trace_service_pb2.ExportTraceServiceResponse, "rejected_spans"),
    "logs": (logs_service_pb2.ExportLogsServiceRequest, logs_service_pb2.ExportLogsServiceResponse, "rejected_log_records"),
}
ANSWERS = collections.defaultdict(collections.deque)
PRINTING = threading.Lock()


def next_answer(transport, signal):
    answers = ANSWERS[transport, signal]
    return answers.popleft() if answers else "ok"


def has_unknown_fields(message):
    """A field that the official definition does not have is lost when it is parsed and written again without unknown ones."""
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    return known.ByteSize() != message.ByteSize()


def receive(signal, message, answer, **transport):
    with PRINTING:
        print(json.dumps({"signal": signal, "answer": answer, **transport, "message": MessageToDict(message)}), flush=True)


def response(signal, answer):
    _, kind, rejected = SIGNALS[signal]
    message = kind()
    if answer == "partial":
        setattr(message.partial_success, rejected, 1)
        message.partial_success.error_message = "one item too many"
    return message


def servicer(base, signal):
    class Servicer(base):
        def Export(self, request, context):
            answer = next_answer("grpc", signal)
            if has_unknown_fields(request):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "unknown fields")
            receive(signal, request, answer, transport="grpc", headers=dict(
                (key, value) for key, value in context.invocation_metadata() if isinstance(value, str)))
            if answer == "busy":
                context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
            return response(signal, answer)

    return Servicer()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.reply(200, b"ok")

    def do_POST(self):
        url = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if url.path == "/answers":
            query = dict(urllib.parse.parse_qsl(url.query))
            ANSWERS[query["transport"], query["signal"]].append(query["answer"])
            return self.reply(200)
        signal = url.path.removeprefix("/v1/")
        encoding = self.headers.get("content-encoding", "identity")
        if signal not in SIGNALS or self.headers.get("content-type") != "application/x-protobuf":
            return self.reply(404)
        message = SIGNALS[signal][0].FromString(gzip.decompress(body) if encoding == "gzip" else body)
        if has_unknown_fields(message):
            return self.reply(400, b"unknown fields")
        answer = next_answer("http", signal)
        receive(signal, message, answer, transport="http", encoding=encoding, headers=dict(self.headers.items()))
        if answer == "busy":
            return self.reply(503, b"busy", retry_after=RETRY_SECONDS)
        return self.reply(200, response(signal, answer).SerializeToString(), content_type="application/x-protobuf")

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grpc", required=True, type=int)
    parser.add_argument("--http", required=True, type=int)
    options = parser.parse_args()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=4))
    for add, base, signal in (
            (metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server, metrics_service_pb2_grpc.MetricsServiceServicer, "metrics"),
            (trace_service_pb2_grpc.add_TraceServiceServicer_to_server, trace_service_pb2_grpc.TraceServiceServicer, "traces"),
            (logs_service_pb2_grpc.add_LogsServiceServicer_to_server, logs_service_pb2_grpc.LogsServiceServicer, "logs")):
        add(servicer(base, signal), server)
    if server.add_insecure_port(f"127.0.0.1:{options.grpc}") != options.grpc:
        raise SystemExit(f"port {options.grpc} is in use")
    server.start()
    http.server.ThreadingHTTPServer(("127.0.0.1", options.http), Handler).serve_forever()


if __name__ == "__main__":
    main()
