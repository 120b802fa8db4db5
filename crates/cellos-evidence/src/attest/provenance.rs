//! The SLSA provenance predicate, version 1.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    ATTESTED_ON, Attester, BUILD_TYPE,
    run::RunEvidence,
    statement::{DigestSet, Knowledge, ResourceDescriptor, STATEMENT_TYPE, Statement},
};

/// `predicateType` of provenance.
pub const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";

/// The digest by which the chain of a log knows a line: SHA-256 over `cellos.log.line.v1`, a line
/// feed and the line. See [`crate::line`].
pub const LINE_DIGEST: &str = "cellosLogLine";

/// Why a run cannot be attested.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// An artifact without a digest cannot be a subject.
    #[error(
        "artifact {name:?}: the log has no SHA-256 of it, so nothing can be attested of it: the \
         log is of an earlier version"
    )]
    NoDigest {
        /// Name of the artifact.
        name: String,
    },
    /// The document given is not the one that ran.
    #[error("this is not the document of the run: its SHA-256 is {found}, the log says {stated}")]
    OtherDocument {
        /// SHA-256 of the document given.
        found: String,
        /// What the log says.
        stated: String,
    },
    /// The log does not say which document ran.
    #[error("the log does not say which document the run had, so none can be attested with it")]
    NoDocumentDigest,
    /// The predicate has no JSON form.
    #[error("the predicate cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// The document of a run, whose digest is known to be the log's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttestedDocument<'d>(&'d Value);

impl<'d> AttestedDocument<'d> {
    /// Takes a document for that of a run, if the SHA-256 of its bytes (lower-case hexadecimal)
    /// is the one that the log says.
    ///
    /// # Errors
    /// [`AttestError::OtherDocument`] and [`AttestError::NoDocumentDigest`].
    pub fn of(run: &RunEvidence, document: &'d Value, sha256: &str) -> Result<Self, AttestError> {
        match run.document_sha256() {
            None => Err(AttestError::NoDocumentDigest),
            Some(stated) if stated != sha256 => Err(AttestError::OtherDocument {
                found: sha256.to_owned(),
                stated: stated.to_owned(),
            }),
            Some(_) => Ok(Self(document)),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Provenance {
    build_definition: BuildDefinition,
    run_details: RunDetails,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildDefinition {
    build_type: &'static str,
    external_parameters: Map<String, Value>,
    internal_parameters: Map<String, Value>,
    resolved_dependencies: Vec<ResourceDescriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RunDetails {
    builder: Builder,
    metadata: Value,
    byproducts: Vec<ResourceDescriptor>,
}

#[derive(Serialize)]
struct Builder {
    id: String,
    version: BTreeMap<&'static str, String>,
}

/// What was run with what, and what came of it.
///
/// # Errors
/// [`AttestError`].
pub fn provenance(
    run: &RunEvidence,
    document: Option<AttestedDocument<'_>>,
    attester: &Attester,
) -> Result<Statement, AttestError> {
    let predicate = Provenance {
        build_definition: BuildDefinition {
            build_type: BUILD_TYPE,
            external_parameters: external(run, document),
            internal_parameters: internal(run),
            resolved_dependencies: dependencies(run, document),
        },
        run_details: RunDetails {
            builder: Builder {
                id: attester.builder_id.clone(),
                version: BTreeMap::from([("cellos", attester.version.clone())]),
            },
            metadata: json!({
                "invocationId": run.key.run_id,
                "startedOn": time(run.events.first().map(|event| event.time.as_str())),
                "finishedOn": time(run.last().map(|event| event.time.as_str())),
                ATTESTED_ON: attester.now.to_string(),
            }),
            byproducts: vec![log_part(run)],
        },
    };
    statement(run, PREDICATE_TYPE, &predicate)
}

/// A statement about what a run made or, where it made nothing, about the run.
pub(super) fn statement(
    run: &RunEvidence,
    predicate_type: &str,
    predicate: &impl Serialize,
) -> Result<Statement, AttestError> {
    let predicate = match serde_json::to_value(predicate)? {
        Value::Object(mut fields) => {
            drop_null(&mut fields);
            fields
        }
        _ => Map::new(),
    };
    Ok(Statement {
        ty: STATEMENT_TYPE.to_owned(),
        subject: subjects(run)?,
        predicate_type: predicate_type.to_owned(),
        predicate,
    })
}

fn subjects(run: &RunEvidence) -> Result<Vec<ResourceDescriptor>, AttestError> {
    let artifacts = run
        .all("export.v2.completed")
        .map(|event| {
            let name = text(&event.data, "artifactName").unwrap_or_default();
            let sha256 = text(&event.data, "sha256").ok_or_else(|| AttestError::NoDigest {
                name: name.to_owned(),
            })?;
            Ok(ResourceDescriptor::named(
                name,
                sha256.strip_prefix("sha256:").unwrap_or(sha256),
            ))
        })
        .collect::<Result<Vec<_>, AttestError>>()?;
    if artifacts.is_empty() {
        return Ok(vec![the_run(run)]);
    }
    Ok(artifacts)
}

/// A run as a resource: its terminal line, which the chain binds to all lines before it.
fn the_run(run: &RunEvidence) -> ResourceDescriptor {
    let mut descriptor = ResourceDescriptor::named(
        format!("run:{}", run.key.run_id),
        run.terminal.sha256.to_hex(),
    );
    descriptor
        .digest
        .insert(LINE_DIGEST.to_owned(), run.terminal.hash.to_hex());
    descriptor
}

/// The run's part of the log.
fn log_part(run: &RunEvidence) -> ResourceDescriptor {
    let mut annotations = Map::new();
    annotations.insert("cellos_firstLine".to_owned(), run.first_seq().into());
    annotations.insert(
        "cellos_lastLine".to_owned(),
        run.last().map_or(0, |event| event.seq).into(),
    );
    ResourceDescriptor {
        name: Some("event log".to_owned()),
        uri: Some(format!("urn:cellos:log:{}", run.log_id)),
        digest: DigestSet::from([(LINE_DIGEST.to_owned(), run.terminal.hash.to_hex())]),
        media_type: Some("application/jsonl".to_owned()),
        annotations,
        ..ResourceDescriptor::default()
    }
}

fn external(run: &RunEvidence, document: Option<AttestedDocument<'_>>) -> Map<String, Value> {
    let mut parameters = Map::new();
    if let Some(digest) = run.document_sha256() {
        parameters.insert("documentSha256".to_owned(), digest.into());
    }
    let declared = run
        .event("lifecycle.v1.started")
        .and_then(|event| event.data.get("declared"));
    match (document, declared) {
        (Some(AttestedDocument(document)), _) => {
            parameters.insert("document".to_owned(), document.clone());
        }
        (None, Some(declared)) => {
            parameters.insert("declared".to_owned(), declared.clone());
        }
        (None, None) => {}
    }
    parameters
}

fn internal(run: &RunEvidence) -> Map<String, Value> {
    let started = run.event("lifecycle.v1.started").map(|event| &event.data);
    let failed = run.event("lifecycle.v1.failed").map(|event| &event.data);
    let of = |data: Option<&Value>, field: &str| data?.get(field).cloned();
    let any = run.events.first().map(|event| &event.data);
    let end = run.last().map(|event| &event.data);
    let isolation = run
        .event("observability.v1.container_security")
        .map(|event| &event.data);
    [
        ("cellId", of(any, "cellId")),
        ("specId", of(end, "specId")),
        (
            "backend",
            of(started, "backend").or_else(|| of(failed, "backend")),
        ),
        ("machine", of(isolation, "machine")),
        ("outcome", of(end, "outcome")),
        ("endedBy", of(end, "endedBy")),
        ("exitCode", of(end, "exitCode")),
        ("signal", of(end, "signal")),
        ("residue", of(end, "residue")),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    .collect()
}

/// What was booted, as it was measured, and the sources that the document names.
fn dependencies(
    run: &RunEvidence,
    document: Option<AttestedDocument<'_>>,
) -> Vec<ResourceDescriptor> {
    let started = run.event("lifecycle.v1.started").map(|event| &event.data);
    let machine = run
        .event("observability.v1.container_security")
        .and_then(|event| event.data.get("machine"));
    let measured = [
        ("kernel", started, "kernelDigestSha256"),
        ("rootfs", started, "rootfsDigestSha256"),
        ("initrd", machine, "initrdDigestSha256"),
        ("monitor", machine, "monitorDigestSha256"),
    ];
    let mut dependencies: Vec<_> = measured
        .into_iter()
        .filter_map(|(name, data, field)| {
            let digest = text(data?, field)?;
            Some(ResourceDescriptor::named(name, digest).known(Knowledge::Observed))
        })
        .collect();
    // Where no machine was looked at, a monitor that the cell was started with is still known.
    if dependencies
        .iter()
        .all(|one| one.name.as_deref() != Some("monitor"))
        && let Some(digest) = started.and_then(|data| text(data, "firecrackerDigestSha256"))
    {
        dependencies.push(ResourceDescriptor::named("monitor", digest).known(Knowledge::Observed));
    }
    if let Some(AttestedDocument(document)) = document {
        dependencies.extend(named_sources(document));
    }
    dependencies
}

/// What a document says its content comes from. Nobody has looked whether it does.
fn named_sources(document: &Value) -> impl Iterator<Item = ResourceDescriptor> {
    let git = document.pointer("/spec/ingress/git").and_then(|git| {
        let url = text(git, "url")?;
        let reference = text(git, "ref");
        let commit = reference.filter(|reference| is_commit(reference));
        Some(ResourceDescriptor {
            uri: Some(match reference {
                Some(reference) => format!("git+{url}@{reference}"),
                None => format!("git+{url}"),
            }),
            digest: commit
                .map(|commit| ("gitCommit".to_owned(), commit.to_owned()))
                .into_iter()
                .collect(),
            ..ResourceDescriptor::default()
        })
    });
    let image = |pointer: &str, reference: &str, digest: &str| {
        let image = document.pointer(pointer)?;
        let hex = text(image, digest).and_then(|digest| digest.strip_prefix("sha256:"));
        Some(ResourceDescriptor {
            uri: Some(format!("oci:{}", text(image, reference)?)),
            digest: hex
                .map(|hex| ("sha256".to_owned(), hex.to_owned()))
                .into_iter()
                .collect(),
            ..ResourceDescriptor::default()
        })
    };
    [
        git,
        image("/spec/ingress/ociImage", "reference", "digest"),
        image("/spec/environment", "imageReference", "imageDigest"),
    ]
    .into_iter()
    .flatten()
    .map(|one| one.known(Knowledge::Declared))
}

/// SHA-1 or SHA-256 of a git object, in lower-case hexadecimal.
fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64)
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

pub(super) fn text<'v>(value: &'v Value, field: &str) -> Option<&'v str> {
    value.get(field)?.as_str()
}

/// A time for a field that is omitted where there is none.
pub(super) fn time(time: Option<&str>) -> Option<&str> {
    time.filter(|time| !time.is_empty())
}

/// Fields that are not set are omitted; readers take both for the same.
fn drop_null(fields: &mut Map<String, Value>) {
    fields.retain(|_, value| !value.is_null());
    for value in fields.values_mut() {
        if let Value::Object(fields) = value {
            drop_null(fields);
        }
    }
}
