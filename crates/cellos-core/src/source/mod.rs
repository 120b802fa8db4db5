//! Documents as text: JSON and YAML into typed values, with every problem and its place.

mod json;
mod node;
mod problem;
mod shape;
mod typed;
mod yaml;

pub use node::Positions;
pub use problem::{Position, Problem, ProblemCode, Problems, Severity};

use crate::{
    admission::{self, AdmittedDocument},
    document::{API_VERSION, ExecutionCellDocument, KIND_EXECUTION_CELL},
    schema,
};
use json::TextProblem;
use node::{Entry, Node, Value, leads_to, position_of, span_of};
use shape::Finding;

/// Largest document, in bytes. A document names things and does not carry them; the bound keeps a
/// mistaken or hostile file from costing more than a few milliseconds.
pub const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;
/// Deepest nesting of objects and arrays. The document itself needs ten levels; the bound keeps the
/// parser's own stack small.
pub const MAX_DEPTH: usize = 128;
/// Most problems that are reported for one document.
pub const MAX_PROBLEMS: usize = 100;

/// How a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// JSON, RFC 8259.
    Json,
    /// YAML 1.2, core schema.
    Yaml,
}

impl Format {
    /// The format that a file's name says, or, without a telling name, that its text looks like: JSON
    /// when the first visible character is `{` or `[`.
    #[must_use]
    pub fn guess(file_name: Option<&str>, text: &[u8]) -> Self {
        let extension = file_name
            .and_then(|name| name.rsplit_once('.'))
            .map(|(_, extension)| extension.to_ascii_lowercase());
        match extension.as_deref() {
            Some("json") => Self::Json,
            Some("yaml" | "yml") => Self::Yaml,
            _ => match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
                Some(b'{' | b'[') => Self::Json,
                _ => Self::Yaml,
            },
        }
    }
}

/// What happens to fields that this version does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnknownFields {
    /// They are errors: a mistyped limit is no limit.
    Refuse,
    /// They are ignored and come back as warnings, as the published supervisor ignores them.
    /// Inside `authority.filesystem` they are errors all the same.
    Ignore,
}

/// A document that was read, not yet admitted.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The document.
    pub document: ExecutionCellDocument,
    /// Fields that were ignored.
    pub warnings: Vec<Problem>,
    /// Where each field stands.
    pub positions: Positions,
}

impl Loaded {
    /// Admits the document; problems carry their place in the text.
    ///
    /// # Errors
    ///
    /// Everything that [`admission::check`] finds.
    pub fn admit(self) -> Result<AdmittedDocument, Problems> {
        let Self {
            document,
            positions,
            ..
        } = self;
        admission::admit(document).map_err(|mut problems| {
            problems.place(&positions);
            problems
        })
    }
}

impl Positions {
    /// Gives each problem without a position the one of its path.
    pub fn place(&self, problems: &mut [Problem]) {
        for problem in problems {
            if problem.position.is_none() {
                problem.position = self.locate(&problem.path);
            }
        }
    }
}

/// Reads a document.
///
/// ```
/// use cellos_core::source::{Format, UnknownFields, load};
///
/// let text = b"
/// apiVersion: cellos.io/v1
/// kind: ExecutionCell
/// spec: {id: hello, run: {argv: [echo, hello]}, authority: {}, lifetime: {ttlSeconds: 5}}
/// ";
/// let admitted = load(text, Format::Yaml, UnknownFields::Refuse)?.admit()?;
/// assert_eq!(admitted.document().spec.id, "hello");
/// # Ok::<(), cellos_core::source::Problems>(())
/// ```
///
/// # Errors
///
/// Everything that keeps the text from being a document: when its shape is wrong somewhere, also
/// the admission problems of the parts that could be read.
pub fn load(text: &[u8], format: Format, unknown: UnknownFields) -> Result<Loaded, Problems> {
    let text = decode(text)?;
    let root = match format {
        Format::Json => json::parse(text),
        Format::Yaml => yaml::parse(text),
    }
    .map_err(|problems| text_problems(text, problems))?;
    match typed::document(&root) {
        Ok(document) => Ok(Loaded {
            document,
            warnings: Vec::new(),
            positions: Positions::new(root, text),
        }),
        Err(error) => explain(text, root, unknown, &error.to_string()),
    }
}

/// The path of a field of the object at `path`.
pub(crate) fn field_path(path: &str, key: &str) -> String {
    node::join_key(path, key)
}

fn decode(text: &[u8]) -> Result<&str, Problems> {
    if text.len() > MAX_DOCUMENT_BYTES {
        return Err(Problems::from(Problem::error(
            ProblemCode::DocumentTooLarge,
            "",
            format!(
                "the document has {} bytes, at most {MAX_DOCUMENT_BYTES} are read",
                text.len()
            ),
            None,
        )));
    }
    let decoded = std::str::from_utf8(text).map_err(|error| {
        let mut problem = Problem::error(
            ProblemCode::InvalidEncoding,
            "",
            "the document is not UTF-8",
            Some("save it as UTF-8".to_owned()),
        );
        let valid = std::str::from_utf8(&text[..error.valid_up_to()]).unwrap_or_default();
        problem.position = Some(position_of(valid, valid.len()..valid.len()));
        Problems::from(problem)
    })?;
    if decoded.starts_with('\u{feff}') {
        let mut problem = Problem::error(
            ProblemCode::InvalidEncoding,
            "",
            "the document starts with a byte order mark",
            Some("save it as UTF-8 without one".to_owned()),
        );
        problem.position = Some(position_of(decoded, 0..3));
        return Err(Problems::from(problem));
    }
    Ok(decoded)
}

fn text_problems(text: &str, found: Vec<TextProblem>) -> Problems {
    let problems = found.into_iter().take(MAX_PROBLEMS).map(|found| {
        let mut problem = Problem::error(found.code, found.path, found.message, None);
        problem.position = Some(position_of(text, found.span));
        problem
    });
    Problems::known(problems.collect(), || {
        Problem::error(ProblemCode::Syntax, "", "the document cannot be read", None)
    })
}

/// Says everything that is wrong with a tree that has no typed form, or, where unknown fields are
/// ignored and are all that is wrong, reads it without them.
fn explain(
    text: &str,
    root: Node,
    unknown: UnknownFields,
    typed_error: &str,
) -> Result<Loaded, Problems> {
    let findings = shape::findings(&root, schema::execution_cell_ref());
    let ignorable = unknown == UnknownFields::Ignore && findings.len() < MAX_PROBLEMS;
    let mut rest = root.clone();
    let mut substituted = Vec::new();
    let mut readable = true;
    for finding in &findings {
        readable &= leave_out(&mut rest, finding, &mut substituted);
    }
    let (mut warnings, mut problems) = (Vec::new(), Vec::new());
    let relations_known = findings.iter().all(|finding| {
        finding.problem.code == ProblemCode::UnknownField
            && (unknown == UnknownFields::Ignore
                || !leads_to("spec.authority", &finding.problem.path))
    });
    for Finding {
        mut problem, part, ..
    } in findings
    {
        problem.position = Some(position_of(text, span_of(&root, &problem.path, part)));
        if ignorable && problem.code == ProblemCode::UnknownField {
            problem.severity = Severity::Warning;
            warnings.push(problem);
        } else {
            problems.push(problem);
        }
    }
    match readable.then(|| typed::document(&rest)).transpose() {
        Ok(Some(document)) if problems.is_empty() && !warnings.is_empty() => {
            return Ok(Loaded {
                document,
                warnings,
                positions: Positions::new(root, text),
            });
        }
        Ok(Some(document)) => {
            let mut more = admission::check(&document);
            more.retain(|problem| {
                (relations_known || !problem.code.relates_parts())
                    && !substituted.iter().any(|path| leads_to(path, &problem.path))
            });
            more.truncate(MAX_PROBLEMS.saturating_sub(problems.len()));
            Positions::new(root, text).place(&mut more);
            problems.append(&mut more);
        }
        Ok(None) | Err(_) => {}
    }
    // The schema and the types disagree: fail closed, with what the types say.
    Err(Problems::known(problems, || {
        Problem::error(ProblemCode::WrongType, "", typed_error, None)
    }))
}

/// Takes what is wrong out of the tree, or puts something harmless in its place. `false` when neither
/// can be done.
fn leave_out(root: &mut Node, finding: &Finding, substituted: &mut Vec<&'static str>) -> bool {
    if !finding.optional.is_empty() {
        // Already gone when two things were wrong in it.
        root.remove(&finding.optional);
        return true;
    }
    let replacement = [
        ("apiVersion", string(API_VERSION)),
        ("kind", string(KIND_EXECUTION_CELL)),
        ("spec.id", string("unnamed")),
        ("spec.authority", Value::Object(Vec::new())),
        (
            "spec.lifetime",
            Value::Object(vec![entry("ttlSeconds", Value::Unsigned(u64::MAX))]),
        ),
    ]
    .into_iter()
    .find(|(path, _)| leads_to(path, &finding.problem.path));
    let Some((path, value)) = replacement else {
        return false;
    };
    root.remove(path);
    substituted.push(path);
    let parent = match path.rsplit_once('.') {
        None => Some(&mut *root),
        Some((parent, _)) => match &mut root.value {
            Value::Object(entries) => entries
                .iter_mut()
                .find(|entry| entry.key == parent)
                .map(|entry| &mut entry.value),
            _ => None,
        },
    };
    let Some(Node {
        value: Value::Object(entries),
        ..
    }) = parent
    else {
        return false;
    };
    entries.push(entry(path.rsplit('.').next().unwrap_or(path), value));
    true
}

fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn entry(key: &str, value: Value) -> Entry {
    Entry {
        key: key.to_owned(),
        key_span: 0..0,
        value: Node { value, span: 0..0 },
    }
}
