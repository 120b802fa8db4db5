"""Verifies attestations with what others have published, and nothing of ours.

usage: verify_attestations.py FILE KEYID PUBLIC_KEY_HEX

FILE is an in-toto bundle: one DSSE envelope a line. securesystemslib checks each signature, the
messages of in-toto-attestation check statements and provenance. Prints a JSON list of the
statements; ends in 1 and prints the reason when one is not to be believed.
"""

import json
import sys

import in_toto_attestation.v1.statement_pb2 as statement_pb2
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.resource_descriptor_pb2 import (
    ResourceDescriptor as ResourceDescriptorMessage,
)
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
PROVENANCE = "https://slsa.dev/provenance/v1"
RUNTIME_TRACE = "https://in-toto.io/attestation/runtime-trace/v0.1"


def check_provenance(predicate):
    # Extension fields are allowed, so what the message does not know is no error.
    message = json_format.ParseDict(
        predicate, provenance_pb2.Provenance(), ignore_unknown_fields=True
    )
    assert message.build_definition.build_type.startswith("https://")
    assert message.run_details.builder.id, "builder.id is required"
    assert len(message.build_definition.external_parameters) > 0
    assert message.run_details.metadata.invocation_id
    assert message.run_details.metadata.started_on.seconds > 0
    assert (
        message.run_details.metadata.finished_on.ToNanoseconds()
        >= message.run_details.metadata.started_on.ToNanoseconds()
    )
    for one in list(message.build_definition.resolved_dependencies) + list(
        message.run_details.byproducts
    ):
        ResourceDescriptor.copy_from_pb(one).validate()


def check_runtime_trace(predicate):
    # Nobody has published a message for it; these are the fields that its page requires.
    assert predicate["monitor"]["type"].startswith("https://")
    process = predicate["monitoredProcess"]
    assert all(isinstance(process[name], str) for name in ("hostID", "type", "event"))
    log = predicate["monitorLog"]
    assert set(log) & {"process", "network", "fileAccess"}
    for entry in log.get("process", []) + log.get("network", []):
        assert isinstance(entry, dict)
    for entry in log.get("fileAccess", []):
        message = json_format.ParseDict(entry, ResourceDescriptorMessage())
        ResourceDescriptor.copy_from_pb(message).validate()


def check(line, key):
    envelope = Envelope.from_dict(json.loads(line))
    envelope.verify([key], 1)
    assert envelope.payload_type == PAYLOAD_TYPE
    # Strict: a field that the message of statements does not have is an error.
    message = json_format.Parse(envelope.payload, statement_pb2.Statement())
    Statement.copy_from_pb(message).validate()
    statement = json.loads(envelope.payload)
    checks = {PROVENANCE: check_provenance, RUNTIME_TRACE: check_runtime_trace}
    checks[statement["predicateType"]](statement["predicate"])
    return statement


def main():
    path, keyid, public = sys.argv[1:]
    key = SSlibKey(keyid, "ed25519", "ed25519", {"public": public})
    with open(path, encoding="utf-8") as lines:
        statements = [check(line, key) for line in lines]
    if not statements:
        sys.exit("no attestation")
    print(json.dumps(statements))


if __name__ == "__main__":
    main()
