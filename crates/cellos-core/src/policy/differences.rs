//! Where policy here differs from the published implementation, on purpose.

/// One intended difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyDifference {
    /// The field or rule.
    pub topic: &'static str,
    /// What the published implementation does.
    pub published: &'static str,
    /// What happens here.
    pub here: &'static str,
}

const fn difference(
    topic: &'static str,
    published: &'static str,
    here: &'static str,
) -> PolicyDifference {
    PolicyDifference {
        topic,
        published,
        here,
    }
}

/// Every intended difference. Each has a test that shows the behaviour here.
pub const POLICY_DIFFERENCES: &[PolicyDifference] = &[
    difference(
        "unknown rule",
        "ignored, so a mistyped rule is no rule",
        "the pack is refused",
    ),
    difference(
        "doubled name",
        "the last one counts in maps",
        "the document is refused",
    ),
    difference(
        "positional array",
        "an array of a struct's fields is read as the struct",
        "the document is refused",
    ),
    difference(
        "secretRefAllowlist",
        "read and not enforced",
        "enforced on admission; a document without secrets is fine for every caller",
    ),
    difference(
        "maxCellsPerHour",
        "read and not enforced",
        "the authorization policy is refused, because a one-shot process cannot count",
    ),
    difference(
        "pack scope without placement",
        "a document without placement escapes every scoped pack",
        "the host's placement decides; where nobody knows it, the pack applies",
    ),
    difference(
        "pack scope and host",
        "the document decides which pack applies to it",
        "the host's own placement counts before the document's",
    ),
    difference(
        "several packs",
        "one pack per process",
        "every pack that applies is enforced",
    ),
    difference(
        "caps without a limit",
        "a document that sets no memory limit or timeout passes and runs without one",
        "it passes, and the lowest cap becomes its limit",
    ),
    difference(
        "requireResourceLimits",
        "`limits: {}` satisfies it, and a cell that runs nothing breaks it",
        "memory (or a cap on it) and CPU must be set, for cells that run something",
    ),
    difference(
        "requireRuntimeSecretDelivery",
        "cells that run nothing, or have no secrets, break it",
        "evaluated for cells that run something and have secrets",
    ),
    difference(
        "host case",
        "allowedEgressHosts compare with regard to case",
        "without, as hosts do everywhere else",
    ),
    difference(
        "host wildcard",
        "`*.x` matches any text that ends in `.x`, also `.x` itself",
        "one or more labels before `.x`; a rule `*.x` is allowed by a pattern that contains it",
    ),
    difference(
        "host addresses",
        "an address matches only itself, as text",
        "addresses compare as numbers, CIDR blocks contain addresses and blocks",
    ),
    difference(
        "unusable host pattern",
        "every text that is not empty is a pattern",
        "a pattern that can match no host is refused on loading",
    ),
    difference(
        "unusable scope or secret name",
        "any text",
        "texts that no valid document can hold are refused on loading",
    ),
    difference(
        "downgrade",
        "allowing older packs also skips the checks that come after the version",
        "it changes nothing but the floor",
    ),
];
