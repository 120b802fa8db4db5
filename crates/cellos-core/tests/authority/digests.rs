use cellos_core::{
    ExecutionCellSpec,
    canonical::{
        canonical_json_bytes, canonical_payload, canonical_spec_hash, raw_spec_hash, sha256_hex,
        sha256_ref,
    },
};
use serde_json::Value;

use super::fixtures::{EVENT_TEXT, event};

const VEC_1: &str = r#"{"id":"vec-1","correlation":null,"ingress":null,"environment":null,"policy":null,"identity":null,"run":null,"authority":{"filesystem":null,"network":null,"egressRules":null,"secretRefs":null,"authorityDerivation":null},"lifetime":{"ttlSeconds":60},"export":null}"#;
const VEC_2: &str = r#"{"id":"vec-2","correlation":{"platform":"github","externalRunId":null,"externalJobId":null,"tenantId":"acme","labels":{"repo":"a/b"}},"ingress":null,"environment":null,"placement":{"poolId":"p1"},"policy":null,"identity":null,"run":{"argv":["/bin/true"],"workingDirectory":null,"timeoutMs":5000,"limits":{"memoryMaxBytes":268435456,"cpuMax":null},"secretDelivery":"env"},"authority":{"filesystem":{"a":[1.5,null],"z":1},"network":null,"egressRules":[{"host":"api.example.com","port":443,"protocol":null}],"secretRefs":[],"authorityDerivation":null,"dnsAuthority":{"resolvers":[{"resolverId":"r1","endpoint":"1.1.1.1:53","protocol":"do53-udp","dnssec":{"validate":true,"failClosed":false}}],"rebindingPolicy":{"maxNovelIpsPerHostname":4,"rejectOnRebind":false}},"cdnAuthority":{}},"lifetime":{"ttlSeconds":60},"export":{"artifacts":null,"targets":null},"telemetry":{"channel":"vsock-cbor","events":["proc.spawn"],"agentVersion":"1.0.0"}}"#;
const DEMO_FILE: &str = r#"{"apiVersion":"cellos.io/v1","kind":"ExecutionCell","spec":{"id":"ev-demo","correlation":{"tenantId":"acme","correlationId":"c-1"},"placement":{"poolId":"p1"},"run":{"argv":["/bin/sh","-c","echo hi"]},"authority":{"egressRules":[{"host":"1.2.3.4","port":443,"protocol":"tcp"}]},"lifetime":{"ttlSeconds":30}}}"#;

fn typed(text: &str) -> ExecutionCellSpec {
    serde_json::from_str(text).unwrap()
}

#[test]
fn the_typed_hash_of_the_first_vector_matches() {
    let expected = "sha256:8bd910b2d29c08fd78c00542f329b3295653a7315550eac01c3f00eb5ea3bc1d";
    assert_eq!(canonical_spec_hash(&typed(VEC_1)).unwrap(), expected);
    let short = r#"{"lifetime":{"ttlSeconds":60},"authority":{},"id":"vec-1"}"#;
    assert_eq!(canonical_spec_hash(&typed(short)).unwrap(), expected);
}

#[test]
fn the_typed_hash_of_the_demo_document_matches() {
    let file = format!("{DEMO_FILE}\n");
    assert_eq!(
        raw_spec_hash(file.as_bytes()),
        "e1ad461f791818609917130c4e8ec6da8ce246e195f1cd4f3ef572858656bee9"
    );
    assert_eq!(
        canonical_spec_hash(&super::fixtures::spec(DEMO_FILE)).unwrap(),
        "sha256:04339c2d0a8ea303ee3930860bfe727c4d0eae6ee19c7afe2895e71f03647bb3"
    );
}

/// The second vector has an opaque file system, which the typed document refuses. Everything else
/// of it goes through the types, the opaque field through the sorting rule.
#[test]
fn the_second_vector_holds_apart_from_its_opaque_file_system() {
    let opaque: Value = serde_json::from_str(r#"{"z":1,"a":[1.5,null]}"#).unwrap();
    let opaque = String::from_utf8(canonical_json_bytes(&opaque).unwrap()).unwrap();
    let mut document: Value = serde_json::from_str(VEC_2).unwrap();
    document["authority"]["filesystem"] = Value::Null;
    let written = serde_json::to_string(&typed(&document.to_string())).unwrap();
    let spliced = written.replace(r#""filesystem":null"#, &format!(r#""filesystem":{opaque}"#));
    assert_eq!(
        sha256_ref(spliced.as_bytes()),
        "sha256:f9b4b1ed09515c79a8afccf6ac78861723b5fb2d90994f6ba7f79e5592b73002"
    );
}

#[test]
fn labels_do_not_make_the_typed_hash_depend_on_their_order() {
    let with = |labels: &str| {
        canonical_spec_hash(&typed(&format!(
            r#"{{"id":"x","correlation":{{"labels":{labels}}},"authority":{{}},"lifetime":{{"ttlSeconds":1}}}}"#
        )))
        .unwrap()
    };
    assert_eq!(
        with(r#"{"a":"1","b":"2","c":"3"}"#),
        with(r#"{"c":"3","a":"1","b":"2"}"#)
    );
    assert_ne!(with(r#"{"a":"1"}"#), with(r#"{"a":"2"}"#));
}

#[test]
fn the_canonical_bytes_of_the_published_event_match() {
    let bytes = canonical_payload(&event()).unwrap();
    assert_eq!(bytes, EVENT_TEXT.as_bytes());
    assert_eq!(
        sha256_hex(&bytes),
        "376d897652bd53ba85cdad8545f396af1a02e6f56b6f546dbdc2032e98dd4716"
    );
}

#[test]
fn attributes_that_are_absent_are_null_in_the_canonical_bytes() {
    let short = r#"{"type":"t","id":"i","source":"s","specversion":"1.0"}"#;
    let event: cellos_core::CloudEventV1 = serde_json::from_str(short).unwrap();
    assert_eq!(
        String::from_utf8(canonical_payload(&event).unwrap()).unwrap(),
        r#"{"data":null,"datacontenttype":null,"id":"i","source":"s","specversion":"1.0","time":null,"traceparent":null,"type":"t"}"#
    );
}
