//! What can be wrong with a document, as data.

use std::fmt;

use serde::Serialize;

/// The kind of a problem. The kebab-case texts are stable and meant for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ProblemCode {
    /// Larger than [`MAX_DOCUMENT_BYTES`](super::MAX_DOCUMENT_BYTES).
    DocumentTooLarge,
    /// Not UTF-8, or with a byte order mark.
    InvalidEncoding,
    /// Not JSON, or not YAML, or more than one document.
    Syntax,
    /// Nested deeper than [`MAX_DEPTH`](super::MAX_DEPTH).
    TooDeep,
    /// A key twice in one object.
    DuplicateKey,
    /// A field this version does not know.
    UnknownField,
    /// A required field is absent or null.
    MissingField,
    /// A value of another type than the field's.
    WrongType,
    /// A value outside the field's range.
    OutOfRange,
    /// A value that is not one of the allowed ones.
    UnknownValue,
    /// `apiVersion` or `kind` is not one this version reads.
    UnsupportedDocument,
    /// An empty text or list where there has to be something.
    Empty,
    /// A name outside its grammar.
    InvalidName,
    /// Characters that the field cannot carry.
    InvalidCharacters,
    /// A path that is not of the required form.
    InvalidPath,
    /// A host that is no address, block, name or wildcard.
    InvalidHost,
    /// A URL that cannot be used here.
    InvalidUrl,
    /// Credentials inside a URL.
    CredentialsInUrl,
    /// Not `sha256:` and 64 lower-case hexadecimal digits.
    InvalidDigest,
    /// Not a version of the required form.
    InvalidVersion,
    /// The same name or target twice.
    Duplicate,
    /// More entries or bytes than there may be.
    TooMany,
    /// A name that belongs to the system.
    ReservedName,
    /// A duration that reaches past the cell's life.
    ExceedsLifetime,
    /// A secret that `authority.secretRefs` does not list.
    SecretNotDeclared,
    /// A destination that no egress rule allows.
    EgressNotDeclared,
    /// A field that has no meaning for this kind of identity.
    IdentityFieldIrrelevantForKind,
    /// Network telemetry without any egress rule.
    TelemetryWithoutEgress,
    /// `run.argv` is larger than every backend can carry.
    ArgvTooLarge,
    /// An artifact names no declared target, or has to choose one.
    TargetNotDeclared,
    /// A derivation token grants more than the document asks for.
    BeyondAuthority,
    /// Two fields contradict each other.
    Contradiction,
    /// Nobody enforces what the field asks for.
    NotEnforced,
    /// The chosen backend does not enforce what the field asks for.
    BackendLacksFeature,
}

impl ProblemCode {
    /// The stable text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DocumentTooLarge => "document-too-large",
            Self::InvalidEncoding => "invalid-encoding",
            Self::Syntax => "syntax",
            Self::TooDeep => "too-deep",
            Self::DuplicateKey => "duplicate-key",
            Self::UnknownField => "unknown-field",
            Self::MissingField => "missing-field",
            Self::WrongType => "wrong-type",
            Self::OutOfRange => "out-of-range",
            Self::UnknownValue => "unknown-value",
            Self::UnsupportedDocument => "unsupported-document",
            Self::Empty => "empty",
            Self::InvalidName => "invalid-name",
            Self::InvalidCharacters => "invalid-characters",
            Self::InvalidPath => "invalid-path",
            Self::InvalidHost => "invalid-host",
            Self::InvalidUrl => "invalid-url",
            Self::CredentialsInUrl => "credentials-in-url",
            Self::InvalidDigest => "invalid-digest",
            Self::InvalidVersion => "invalid-version",
            Self::Duplicate => "duplicate",
            Self::TooMany => "too-many",
            Self::ReservedName => "reserved-name",
            Self::ExceedsLifetime => "exceeds-lifetime",
            Self::SecretNotDeclared => "secret-not-declared",
            Self::EgressNotDeclared => "egress-not-declared",
            Self::IdentityFieldIrrelevantForKind => "identity-field-irrelevant-for-kind",
            Self::TelemetryWithoutEgress => "telemetry-without-egress",
            Self::ArgvTooLarge => "argv-too-large",
            Self::TargetNotDeclared => "target-not-declared",
            Self::BeyondAuthority => "beyond-authority",
            Self::Contradiction => "contradiction",
            Self::NotEnforced => "not-enforced",
            Self::BackendLacksFeature => "backend-lacks-feature",
        }
    }

    /// Whether the problem is about how two parts of a document relate, so that it says nothing
    /// while one of the parts could not be read.
    pub(crate) fn relates_parts(self) -> bool {
        matches!(
            self,
            Self::SecretNotDeclared
                | Self::EgressNotDeclared
                | Self::TelemetryWithoutEgress
                | Self::TargetNotDeclared
                | Self::BeyondAuthority
                | Self::Contradiction
        )
    }
}

impl fmt::Display for ProblemCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The document is refused.
    Error,
    /// The document is used, and part of it is ignored.
    Warning,
}

/// A place in the text of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Position {
    /// Line, the first is 1.
    pub line: usize,
    /// Column in characters, the first is 1.
    pub column: usize,
    /// Offset from the start of the text, in bytes.
    pub offset: usize,
    /// Length of the marked text, in bytes; it never reaches past the end of its first line.
    pub length: usize,
}

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The kind of problem.
    pub code: ProblemCode,
    /// The field, such as `spec.run.argv[0]`; empty for the document as a whole.
    pub path: String,
    /// What is wrong, a lower-case fragment that does not repeat the path.
    pub message: String,
    /// How to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Where it stands in the text, when the text is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// How bad it is.
    pub severity: Severity,
}

impl Problem {
    /// An error without a position.
    #[must_use]
    pub fn error(
        code: ProblemCode,
        path: impl Into<String>,
        message: impl Into<String>,
        hint: Option<String>,
    ) -> Self {
        Self {
            code,
            path: path.into(),
            message: message.into(),
            hint,
            position: None,
            severity: Severity::Error,
        }
    }
}

impl fmt::Display for Problem {
    /// One line: `3:9: spec.run.argv[0]: message (hint)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(position) = self.position {
            write!(f, "{}:{}: ", position.line, position.column)?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a document; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// `Err` with the problems, `Ok` when there are none.
    ///
    /// # Errors
    ///
    /// The problems, when there is at least one.
    pub fn none_of(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Self(problems))
        }
    }

    /// The problems, or `otherwise` where a caller that knows of a failure has none to name.
    pub(crate) fn known(mut problems: Vec<Problem>, otherwise: impl FnOnce() -> Problem) -> Self {
        if problems.is_empty() {
            problems.push(otherwise());
        }
        Self(problems)
    }

    /// The problems, in the order of the document's rules.
    #[must_use]
    pub fn as_slice(&self) -> &[Problem] {
        &self.0
    }

    /// The problems, in the order of the document's rules.
    #[must_use]
    pub fn into_vec(self) -> Vec<Problem> {
        self.0
    }

    /// Gives each problem its place, and keeps the first [`MAX_PROBLEMS`](super::MAX_PROBLEMS).
    pub fn place(&mut self, positions: &super::Positions) {
        self.0.truncate(super::MAX_PROBLEMS);
        positions.place(&mut self.0);
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_text_is_what_serde_writes() {
        for code in [
            ProblemCode::DocumentTooLarge,
            ProblemCode::IdentityFieldIrrelevantForKind,
            ProblemCode::ArgvTooLarge,
            ProblemCode::BackendLacksFeature,
        ] {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }

    #[test]
    fn display_lists_every_problem_with_place_path_and_hint() {
        let mut first = Problem::error(ProblemCode::Empty, "spec.id", "is empty", None);
        first.position = Some(Position {
            line: 3,
            column: 9,
            offset: 40,
            length: 2,
        });
        let second = Problem::error(ProblemCode::Syntax, "", "broken", Some("mend it".into()));
        let problems = Problems::none_of(vec![first, second]).unwrap_err();
        assert_eq!(
            problems.to_string(),
            "3:9: spec.id: is empty\nbroken (mend it)"
        );
    }
}
