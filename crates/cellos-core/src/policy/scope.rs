//! Whether a pack applies to a cell.

use crate::document::PlacementSpec;

/// Whether a pack applies, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScopeDecision {
    /// The pack is for every cell, or for this one.
    Applies,
    /// Neither the host nor the document says where the cell runs, so the pack applies: leaving the
    /// placement out must not be a way around it.
    AppliesForWantOfPlacement,
    /// The pack is for cells elsewhere.
    Elsewhere,
}

/// Whether a pack with the placement `scope` applies to a cell.
///
/// Each populated field of the scope has to equal the host's own field; only where the host has
/// none does the document's count.
#[must_use]
pub fn pack_scope(
    scope: Option<&PlacementSpec>,
    document: Option<&PlacementSpec>,
    host: Option<&PlacementSpec>,
) -> ScopeDecision {
    let Some(scope) = scope else {
        return ScopeDecision::Applies;
    };
    let mut unknown = false;
    for field in FIELDS {
        let Some(wanted) = field(scope) else {
            continue;
        };
        match host.and_then(field).or_else(|| document.and_then(field)) {
            Some(actual) if actual == wanted => {}
            Some(_) => return ScopeDecision::Elsewhere,
            None => unknown = true,
        }
    }
    if unknown {
        ScopeDecision::AppliesForWantOfPlacement
    } else {
        ScopeDecision::Applies
    }
}

/// Whether a document says by itself that it is inside a scope: every populated field of the scope
/// equals the document's, byte for byte. A scope without fields contains everything.
#[must_use]
pub fn spec_matches_placement_scope(
    document: Option<&PlacementSpec>,
    scope: &PlacementSpec,
) -> bool {
    FIELDS
        .into_iter()
        .all(|field| field(scope).is_none_or(|wanted| document.and_then(field) == Some(wanted)))
}

type Field = fn(&PlacementSpec) -> Option<&str>;

/// The fields of a placement.
const FIELDS: [Field; 3] = [
    |placement| placement.pool_id.as_deref(),
    |placement| placement.kubernetes_namespace.as_deref(),
    |placement| placement.queue_name.as_deref(),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str) -> PlacementSpec {
        PlacementSpec {
            pool_id: Some(name.to_owned()),
            ..PlacementSpec::default()
        }
    }

    #[test]
    fn the_host_decides_before_the_document() {
        let scope = pool("a");
        let cases = [
            (None, None, ScopeDecision::AppliesForWantOfPlacement),
            (Some("a"), None, ScopeDecision::Applies),
            (Some("b"), None, ScopeDecision::Elsewhere),
            (None, Some("a"), ScopeDecision::Applies),
            (None, Some("b"), ScopeDecision::Elsewhere),
            (Some("b"), Some("a"), ScopeDecision::Applies),
            (Some("a"), Some("b"), ScopeDecision::Elsewhere),
            (Some("A"), None, ScopeDecision::Elsewhere),
        ];
        for (document, host, expected) in cases {
            let (document, host) = (document.map(pool), host.map(pool));
            assert_eq!(
                pack_scope(Some(&scope), document.as_ref(), host.as_ref()),
                expected,
                "{document:?} {host:?}"
            );
        }
    }

    #[test]
    fn a_scope_without_fields_is_everywhere() {
        let empty = PlacementSpec::default();
        assert_eq!(pack_scope(None, None, None), ScopeDecision::Applies);
        assert_eq!(pack_scope(Some(&empty), None, None), ScopeDecision::Applies);
        assert!(spec_matches_placement_scope(None, &empty));
    }

    #[test]
    fn every_populated_field_counts() {
        let scope = PlacementSpec {
            queue_name: Some("q".to_owned()),
            ..pool("a")
        };
        assert_eq!(
            pack_scope(Some(&scope), Some(&pool("a")), None),
            ScopeDecision::AppliesForWantOfPlacement
        );
        assert!(!spec_matches_placement_scope(Some(&pool("a")), &scope));
        assert!(spec_matches_placement_scope(Some(&scope), &scope));
        assert!(spec_matches_placement_scope(Some(&scope), &pool("a")));
    }
}
