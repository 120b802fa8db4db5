//! What a command says when it does not do what it was asked: the user's errors and ours.

use std::{error::Error, io};

use cellos_core::source::Problem;

use crate::{exit::Exit, intake::Refusal};

/// Whose error it is, which decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The document asks for something it may not have: 126.
    Document,
    /// The call, the configuration or the host: 125.
    Call,
    /// A mistake in CellOS: 125, and a request to report it.
    Program,
    /// Whoever read our output has gone away, as `head` does: nothing to say, and no failure.
    Reader,
}

/// A command that did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    blame: Blame,
    /// The error and its causes, outermost first.
    chain: Vec<String>,
    hint: Option<Box<str>>,
    /// A refusal is shown problem by problem instead.
    refusal: Option<Box<Refusal>>,
}

impl Failure {
    fn new(blame: Blame, error: &dyn Error) -> Self {
        let mut chain = vec![error.to_string()];
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Transparent wrappers repeat their cause word for word.
            if chain.last().is_none_or(|last| !last.ends_with(&text)) {
                chain.push(text);
            }
            source = cause.source();
        }
        Self {
            blame,
            chain,
            hint: None,
            refusal: None,
        }
    }

    /// The document is refused, for these reasons.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self {
            blame: Blame::Document,
            chain: vec![refusal.summary()],
            hint: None,
            refusal: Some(Box::new(refusal)),
        }
    }

    /// The call, the configuration or the host is wrong.
    pub(crate) fn call(error: impl Error) -> Self {
        Self::new(Blame::Call, &error)
    }

    /// The document is refused.
    pub(crate) fn document(error: impl Error) -> Self {
        Self::new(Blame::Document, &error)
    }

    /// CellOS is wrong.
    pub(crate) fn program(error: impl Error) -> Self {
        Self::new(Blame::Program, &error)
    }

    /// What can be done about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into().into());
        self
    }

    /// The exit code it ends in.
    pub(crate) fn exit(&self) -> Exit {
        match self.blame {
            Blame::Document => Exit::Refused,
            Blame::Call | Blame::Program => Exit::Failure,
            Blame::Reader => Exit::Success,
        }
    }

    /// What is wrong with the document, where that is the reason.
    pub(crate) fn problems(&self) -> &[Problem] {
        self.refusal
            .as_ref()
            .map_or(&[], |refusal| &refusal.problems)
    }

    /// All of it in one line.
    pub(crate) fn message(&self) -> String {
        self.chain.join(": ")
    }

    /// Writes it to standard error.
    pub(crate) fn report(&self) {
        if self.blame == Blame::Reader {
            return;
        }
        if let Some(refusal) = &self.refusal {
            return refusal.report();
        }
        crate::say::error(&self.message());
        if let Some(hint) = &self.hint {
            crate::say::hint(hint);
        }
        if self.blame == Blame::Program {
            crate::say::hint("this is a mistake in cellos, please report it with the command line");
        }
    }
}

/// Standard output could not be written. A reader that went away is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let blame = match error.kind() {
            io::ErrorKind::BrokenPipe => Blame::Reader,
            _ => Blame::Call,
        };
        Self::new(blame, &OutputError(error))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("standard output cannot be written")]
struct OutputError(#[source] io::Error);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn causes_follow_the_error_they_caused() {
        let failure = Failure::call(Outer(io::Error::other("inner")));
        assert_eq!(failure.message(), "outer: inner");
        assert_eq!(failure.exit(), Exit::Failure);
    }

    #[test]
    fn a_document_is_refused_and_not_failed() {
        let failure = Failure::document(io::Error::other("no"));
        assert_eq!(failure.exit(), Exit::Refused);
    }
}
