//! Replays the verdicts of the published implementation, and holds that every difference is one that
//! is wanted and written down.

use std::{collections::BTreeSet, fs, path::PathBuf};

use cellos_core::{
    CellosError,
    admission::validate_execution_cell_document,
    source::{Format, Problem, ProblemCode, UnknownFields, load},
};
use serde::Deserialize;
use serde_json::Value;

/// A document with the published verdict.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) peer: String,
    pub(crate) text: Vec<u8>,
}

#[derive(Deserialize)]
struct File {
    cases: Vec<FileCase>,
}

#[derive(Deserialize)]
struct FileCase {
    name: String,
    peer: String,
    raw: Option<String>,
    document: Option<Value>,
}

/// Examples of the published contract; all are accepted there.
const EXAMPLES: [(&str, &str); 4] = [
    (
        "example: batch job",
        include_str!("../vectors/ex1-batch-job.json"),
    ),
    (
        "example: networked agent",
        include_str!("../vectors/ex2-networked-agent.json"),
    ),
    (
        "example: OIDC, two targets",
        include_str!("../vectors/ex3-oidc-multi-export.json"),
    ),
    (
        "example: AWS role, derivation",
        include_str!("../vectors/ex4-aws-role-signed-derivation.json"),
    ),
];

/// Every vector and example.
pub(crate) fn cases() -> Vec<Case> {
    let file: File = serde_json::from_str(include_str!("../vectors/admission.json")).unwrap();
    let vectors = file.cases.into_iter().map(|case| Case {
        text: match (case.raw, case.document) {
            (Some(raw), _) => raw.into_bytes(),
            (None, document) => document.unwrap().to_string().into_bytes(),
        },
        name: case.name,
        peer: case.peer,
    });
    let examples = EXAMPLES.iter().map(|(name, text)| Case {
        name: (*name).to_owned(),
        peer: "accept".to_owned(),
        text: text.as_bytes().to_vec(),
    });
    vectors.chain(examples).collect()
}

impl Case {
    /// Our problems with the document; nothing when it is admitted.
    pub(crate) fn verdict(&self) -> Option<Vec<Problem>> {
        load(
            &self.text,
            Format::guess(None, &self.text),
            UnknownFields::Refuse,
        )
        .and_then(|loaded| loaded.admit())
        .err()
        .map(|problems| problems.into_vec())
    }
}

/// A document on which we differ on purpose.
struct Difference {
    /// The vector.
    name: &'static str,
    /// What we find; nothing where we admit what the published implementation refuses.
    ours: &'static [ProblemCode],
    /// Why.
    reason: &'static str,
}

const fn refused(
    name: &'static str,
    ours: &'static [ProblemCode],
    reason: &'static str,
) -> Difference {
    Difference { name, ours, reason }
}

const fn admitted(name: &'static str, reason: &'static str) -> Difference {
    Difference {
        name,
        ours: &[],
        reason,
    }
}

/// All differences; `docs/compatibility.md` is made from them.
const DIFFERENCES: [Difference; 20] = [
    refused(
        "artifact dup names",
        &[ProblemCode::Duplicate],
        "the second artifact fails at export there, after the work is done",
    ),
    refused(
        "artifact path ..",
        &[ProblemCode::InvalidPath],
        "an artifact lies beneath the working folder or at an absolute path inside the cell",
    ),
    refused(
        "artifact path empty",
        &[ProblemCode::InvalidPath],
        "an empty path names no file",
    ),
    admitted(
        "aws roleArn",
        "the camel-case spelling of its documentation is read too",
    ),
    refused(
        "egress host $",
        &[ProblemCode::InvalidHost],
        "a host is an address, a block, a name or one leading wildcard; nothing else is enforced",
    ),
    admitted(
        "export http ipv6",
        "an IPv6 address is the same with and without brackets, in a rule and in an address",
    ),
    refused(
        "export http userinfo",
        &[ProblemCode::CredentialsInUrl],
        "credentials in an address end up in events; secretRef is for them",
    ),
    refused(
        "gracefulShutdown 121",
        &[ProblemCode::OutOfRange],
        "the documented bound of 120 seconds is checked",
    ),
    refused(
        "host w/ @include",
        &[ProblemCode::InvalidHost],
        "a host is an address, a block, a name or one leading wildcard; nothing else is enforced",
    ),
    refused(
        "ociImage digest bad",
        &[ProblemCode::Empty, ProblemCode::InvalidDigest],
        "an image without a reference and a digest that can never match are mistakes",
    ),
    admitted(
        "require derivation =0",
        "the document is fine; the variable is a gate around admission, and 0 turns it off",
    ),
    refused(
        "tenant NUL",
        &[ProblemCode::InvalidCharacters],
        "the tenant becomes a part of subjects, paths and logs",
    ),
    refused(
        "tenant long",
        &[ProblemCode::TooMany],
        "the tenant becomes a part of subjects, paths and logs; 64 characters are the most",
    ),
    refused(
        "timeout 0",
        &[ProblemCode::OutOfRange],
        "a command that ends before it starts",
    ),
    refused(
        "top-level metadata",
        &[ProblemCode::UnknownField],
        "unknown fields are errors; the drop-in's lenient mode makes them warnings",
    ),
    refused(
        "unknown field in run",
        &[ProblemCode::UnknownField],
        "unknown fields are errors; the drop-in's lenient mode makes them warnings",
    ),
    refused(
        "workdir ../..",
        &[ProblemCode::InvalidPath],
        "the working folder is an absolute path inside the cell",
    ),
    refused(
        "workdir empty",
        &[ProblemCode::InvalidPath],
        "the working folder is an absolute path inside the cell",
    ),
    admitted("yaml", "YAML is read as well"),
    refused(
        "example: networked agent",
        &[ProblemCode::NotEnforced],
        "its authority.filesystem is a free form that nobody enforces; mounts are the typed form",
    ),
];

#[test]
fn every_verdict_is_the_published_one_or_a_listed_difference() {
    let mut used = BTreeSet::new();
    for case in cases() {
        let problems = case.verdict();
        let found: Vec<ProblemCode> = problems
            .iter()
            .flatten()
            .map(|problem| problem.code)
            .collect();
        match DIFFERENCES
            .iter()
            .find(|difference| difference.name == case.name)
        {
            Some(difference) => {
                used.insert(difference.name);
                assert_eq!(found, difference.ours, "{}: {problems:?}", case.name);
                let agree = problems.is_none() == (case.peer == "accept");
                assert!(!agree, "{} is listed and no difference", case.name);
            }
            None => assert_eq!(
                problems.is_none(),
                case.peer == "accept",
                "{} ({}): {problems:?}",
                case.name,
                case.peer
            ),
        }
    }
    assert_eq!(
        used.len(),
        DIFFERENCES.len(),
        "a difference names no vector, or one twice"
    );
}

#[test]
fn the_class_of_a_refusal_is_the_published_one() {
    for case in cases() {
        if DIFFERENCES
            .iter()
            .any(|difference| difference.name == case.name)
        {
            continue;
        }
        let loaded = load(&case.text, Format::Json, UnknownFields::Refuse);
        match case.peer.as_str() {
            "reject-parse" => assert!(loaded.is_err(), "{}", case.name),
            "reject-invalid-spec" => {
                let document = loaded
                    .unwrap_or_else(|error| panic!("{}: {error}", case.name))
                    .document;
                let verdict = validate_execution_cell_document(&document);
                assert!(
                    matches!(verdict, Err(CellosError::InvalidSpec(_))),
                    "{}: {verdict:?}",
                    case.name
                );
            }
            "reject-argv-too-large" => {
                let verdict = validate_execution_cell_document(&loaded.unwrap().document);
                assert!(
                    matches!(verdict, Err(CellosError::ArgvTooLarge { .. })),
                    "{}",
                    case.name
                );
            }
            "accept" => assert!(loaded.is_ok(), "{}", case.name),
            other => panic!("{}: unknown verdict {other}", case.name),
        }
    }
}

#[test]
fn lenient_reading_admits_unknown_fields_with_a_warning() {
    for (name, path) in [
        ("top-level metadata", "metadata"),
        ("unknown field in run", "spec.run.bogus"),
    ] {
        let case = cases().into_iter().find(|case| case.name == name).unwrap();
        let loaded = load(&case.text, Format::Json, UnknownFields::Ignore).unwrap();
        let paths: Vec<_> = loaded
            .warnings
            .iter()
            .map(|warning| warning.path.as_str())
            .collect();
        assert_eq!(paths, [path]);
        assert!(loaded.admit().is_ok());
    }
}

#[test]
fn an_example_survives_writing_and_reading_again() {
    for (name, text) in EXAMPLES {
        let Ok(loaded) = load(text.as_bytes(), Format::Json, UnknownFields::Refuse) else {
            continue;
        };
        let written = serde_json::to_vec(&loaded.document).unwrap();
        let again = load(&written, Format::Json, UnknownFields::Refuse).unwrap();
        assert_eq!(again.document, loaded.document, "{name}");
    }
}

fn compatibility_page() -> String {
    let mut page = String::from(
        "# Documents: differences from the published implementation\n\n\
         A document that means something to the published implementation is admitted here, unless it \
         asks for something that nobody enforces. Its admission vectors and examples are replayed by \
         a test; these are all the differences. The page is made by that test: \
         `CELLOS_UPDATE_SCHEMAS=1 cargo test -p cellos-core`.\n\n\
         | document | published | here | why |\n| --- | --- | --- | --- |\n",
    );
    for difference in &DIFFERENCES {
        let case = cases()
            .into_iter()
            .find(|case| case.name == difference.name)
            .unwrap();
        let ours = match difference.ours {
            [] => "accept".to_owned(),
            codes => {
                let codes: Vec<_> = codes.iter().map(|code| code.as_str()).collect();
                format!("refuse: {}", codes.join(", "))
            }
        };
        page.push_str(&format!(
            "| `{}` | {} | {ours} | {} |\n",
            case.name, case.peer, difference.reason
        ));
    }
    page.push_str(
        "\n`require derivation =0` is about a variable around admission and not about the document. \
         Where unknown fields are ignored (the drop-in binary), those inside \
         `authority.filesystem` are refused all the same.\n\n\
         ## Rules that no vector shows\n\n\
         * `lifetime.ttlSeconds` and `identity.ttlSeconds` of 0 are refused; the largest 64-bit value \
         is a life without end and admitted.\n\
         * `limits.memoryMaxBytes` is at least 1 MiB; `cpuMax.quotaMicros` at least 1000 and \
         `periodMicros` 1000 to 1000000, which are the kernel's own bounds.\n\
         * Egress ports are 1 to 65535; `protocol` is one of tcp, tls, http, https (all TCP), udp and \
         dns-acknowledged (both UDP), case ignored; absent is TCP. There are at most 1024 different \
         ports, and no addresses that no cell can reach: `0.0.0.0`, `::`, and the blocks that stand \
         for names inside a cell (198.18.0.0/15, fd63:656c:6c6f::/48).\n\
         * A grant of egress (derivation token, ceiling) is for the same host and port, and for what \
         its `protocol` lets through: `tcp` contains an absent one, which contains `http` and `tls`; \
         `https` is `tls`, `dns-acknowledged` is `udp`.\n\
         * The endpoint of a resolver is `address:port` for plain DNS, `host:port` for DNS over TLS and \
         an `https` URL without credentials for DNS over HTTPS; DNS over QUIC is refused. \
         `dnssec.failClosed` needs `dnssec.validate`, and `trustAnchorsPath` is absolute.\n\
         * `secretRef` of an ingress is listed in `authority.secretRefs`, like every other.\n\
         * An egress rule allows an export target also as wildcard, block or `*`.\n\
         * `rebindingPolicy.responseIpAllowlist` entries are `hostname:address` or `hostname:block`.\n\
         * `grantorSignature.algorithm` is `ed25519`.\n\
         * A populated `authority.network` is refused.\n\
         * A positional array in place of an object is refused.\n",
    );
    page
}

#[test]
fn compatibility_page_lists_every_difference() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/compatibility.md");
    let page = compatibility_page();
    if std::env::var_os("CELLOS_UPDATE_SCHEMAS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &page).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == page,
        "docs/compatibility.md is stale; renew it with CELLOS_UPDATE_SCHEMAS=1 cargo test -p cellos-core"
    );
}
