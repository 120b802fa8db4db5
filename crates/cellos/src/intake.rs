//! From an argument to an admitted document: read, load, admit, compare with a backend.

use std::{
    fmt::Write as _,
    path::{Component, Path},
};

use cellos_core::{
    admission::{self, AdmittedDocument},
    descriptor::BackendDescriptor,
    document::ExecutionCellDocument,
    event::Subject,
    source::{Format, Loaded, Problem, Problems, UnknownFields, load},
};
use sha2::{Digest as _, Sha256};

use crate::{
    diagnostics,
    document_file::{self, DocumentFileError, DocumentSource},
    failure::Failure,
    say,
};

/// A document that is refused, with what is needed to show why.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Name for messages.
    pub(crate) name: String,
    /// Its text; empty where it was made from flags.
    pub(crate) text: String,
    /// All that is wrong with it.
    pub(crate) problems: Vec<Problem>,
}

impl Refusal {
    /// Shows every problem on standard error.
    pub(crate) fn report(&self) {
        for problem in &self.problems {
            say::write(format_args!(
                "cellos: {}",
                diagnostics::render(&self.name, &self.text, problem)
            ));
        }
    }

    /// All problems in one line, for records.
    pub(crate) fn summary(&self) -> String {
        self.problems
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ")
    }
}

/// Why there is no admitted document.
#[derive(Debug)]
pub(crate) enum IntakeError {
    /// It cannot be read.
    Unreadable(DocumentFileError),
    /// It was read and is refused.
    Refused(Refusal),
}

impl From<DocumentFileError> for IntakeError {
    fn from(error: DocumentFileError) -> Self {
        Self::Unreadable(error)
    }
}

/// A document that was read.
#[derive(Debug)]
pub(crate) struct Intake {
    name: String,
    text: String,
    loaded: Option<Loaded>,
    document: ExecutionCellDocument,
}

impl Intake {
    /// Reads a document.
    pub(crate) fn read(
        source: &DocumentSource,
        format: Option<Format>,
        unknown: UnknownFields,
    ) -> Result<Self, IntakeError> {
        let text = document_file::read(source)?;
        let name = source.to_string();
        let format = format.unwrap_or_else(|| Format::guess(Some(&name), text.as_bytes()));
        match load(text.as_bytes(), format, unknown) {
            Ok(loaded) => Ok(Self {
                name,
                text,
                document: loaded.document.clone(),
                loaded: Some(loaded),
            }),
            Err(problems) => Err(IntakeError::Refused(Refusal {
                name,
                text,
                problems: problems.into_vec(),
            })),
        }
    }

    /// A document that was made from flags.
    pub(crate) fn made(document: ExecutionCellDocument) -> Self {
        Self {
            name: "<command line>".into(),
            text: String::new(),
            loaded: None,
            document,
        }
    }

    /// A document that was read before and has been completed since.
    pub(crate) fn effective(name: String, document: ExecutionCellDocument) -> Self {
        Self {
            name,
            ..Self::made(document)
        }
    }

    /// The document as it was given: without the changes of [`Intake::anchor_mounts`].
    pub(crate) fn as_given(&self) -> &ExecutionCellDocument {
        self.loaded
            .as_ref()
            .map_or(&self.document, |loaded| &loaded.document)
    }

    /// The document as it stands, for events.
    pub(crate) fn subject(&self, run_id: &str, sha256: &str) -> Subject {
        Subject::of(&self.document.spec, run_id).with_document(sha256)
    }

    /// Fields that were ignored.
    pub(crate) fn warnings(&self) -> &[Problem] {
        self.loaded.as_ref().map_or(&[], |loaded| &loaded.warnings)
    }

    /// Shows the fields that were ignored on standard error.
    pub(crate) fn report_warnings(&self) {
        for problem in self.warnings() {
            say::write(format_args!(
                "cellos: {}",
                diagnostics::render(&self.name, &self.text, problem)
            ));
        }
    }

    /// SHA-256 of the document's bytes, bare hexadecimal: of those that were read, or, where flags
    /// made it, of its JSON form.
    pub(crate) fn sha256(&self) -> Result<String, Failure> {
        let digest = match &self.loaded {
            Some(_) => Sha256::digest(self.text.as_bytes()),
            None => Sha256::digest(serde_json::to_vec(&self.document).map_err(Failure::program)?),
        };
        let mut text = String::with_capacity(2 * digest.len());
        for byte in digest {
            let _ = write!(text, "{byte:02x}");
        }
        Ok(text)
    }

    /// Makes mount sources that are relative mean the folder of the document, so that a document
    /// and its files can be moved together. A source with `..` stays as it is and is refused: what
    /// lies above the document is named in full.
    pub(crate) fn anchor_mounts(
        &mut self,
        source: &DocumentSource,
    ) -> Result<(), DocumentFileError> {
        let relative = |path: &str| {
            let path = Path::new(path);
            path.is_relative()
                && path.as_os_str() != ""
                && !path.components().any(|part| part == Component::ParentDir)
        };
        let Some(filesystem) = &mut self.document.spec.authority.filesystem else {
            return Ok(());
        };
        if !filesystem
            .mounts
            .iter()
            .any(|mount| relative(&mount.source))
        {
            return Ok(());
        }
        let folder = match source.folder() {
            folder if folder.as_os_str().is_empty() => std::env::current_dir(),
            folder => std::fs::canonicalize(folder),
        }
        .map_err(|error| DocumentFileError::Io {
            source_name: source.clone(),
            source: error,
        })?;
        for mount in &mut filesystem.mounts {
            if relative(&mount.source) {
                let mut anchored = folder.clone();
                anchored.extend(
                    Path::new(&mount.source)
                        .components()
                        .filter(|part| *part != Component::CurDir),
                );
                // A folder whose name is not UTF-8 leaves the source relative, which is refused.
                if let Ok(anchored) = anchored.into_os_string().into_string() {
                    mount.source = anchored;
                }
            }
        }
        Ok(())
    }

    /// Admits the document, and compares it with what a backend enforces.
    pub(crate) fn admit(
        self,
        backend: Option<&BackendDescriptor>,
        others: impl FnOnce() -> Vec<BackendDescriptor>,
    ) -> Result<AdmittedDocument, Refusal> {
        let Self {
            name,
            text,
            loaded,
            document,
        } = self;
        let lacking = |admitted: &AdmittedDocument| {
            let Some(backend) = backend else {
                return Vec::new();
            };
            let document = admitted.document();
            match admission::check_backend(document, backend, &[]) {
                problems if problems.is_empty() => problems,
                // Only a refusal needs to know what the others could.
                _ => admission::check_backend(document, backend, &others()),
            }
        };
        let admitted = admission::admit(document)
            .and_then(|admitted| Problems::none_of(lacking(&admitted)).map(|()| admitted));
        admitted.map_err(|problems| {
            let mut problems = problems.into_vec();
            if let Some(loaded) = &loaded {
                loaded.positions.place(&mut problems);
            }
            Refusal {
                name,
                text,
                problems,
            }
        })
    }
}

impl From<IntakeError> for Failure {
    fn from(error: IntakeError) -> Self {
        match error {
            IntakeError::Unreadable(error) => Self::call(error),
            IntakeError::Refused(refusal) => Self::refused(refusal),
        }
    }
}
