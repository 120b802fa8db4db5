//! `spec.correlation` and `spec.placement`.

use super::{grammar, portable_id, report::Report, shown};
use crate::{document::ExecutionCellSpec, source::ProblemCode};

/// Longest tenant id, in characters: it becomes a part of subjects, paths and log lines.
pub const MAX_TENANT_ID_CHARS: usize = 64;

pub(super) fn check_correlation(spec: &ExecutionCellSpec, report: &mut Report) {
    let path = "spec.correlation.tenantId";
    let Some(tenant) = spec
        .correlation
        .as_ref()
        .and_then(|it| it.tenant_id.as_deref())
    else {
        return;
    };
    if tenant.is_empty() {
        report.refuse(ProblemCode::Empty, path, "is empty");
        return;
    }
    if tenant.chars().nth(MAX_TENANT_ID_CHARS).is_some() {
        let message = format!("is longer than {MAX_TENANT_ID_CHARS} characters");
        report.refuse(ProblemCode::TooMany, path, message);
    }
    if let Some(c) = tenant
        .chars()
        .find(|c| matches!(c, '.' | '*' | '>') || c.is_whitespace())
    {
        let message = format!("has the NATS-reserved char {c:?}");
        let mend = "it becomes one token of a subject: use letters, digits, `-` and `_`";
        report.refuse_with(ProblemCode::InvalidCharacters, path, message, mend);
    } else if let Some(c) = tenant.chars().find(|c| *c == '/' || c.is_control()) {
        let message = format!("has {c:?}, which cannot stand in paths and logs");
        let mend = "use letters, digits, `-` and `_`";
        report.refuse_with(ProblemCode::InvalidCharacters, path, message, mend);
    }
}

pub(super) fn check_placement(spec: &ExecutionCellSpec, report: &mut Report) {
    let Some(placement) = &spec.placement else {
        return;
    };
    let (pool, namespace, queue) = (
        &placement.pool_id,
        &placement.kubernetes_namespace,
        &placement.queue_name,
    );
    if pool.is_none() && namespace.is_none() && queue.is_none() {
        report.refuse_with(
            ProblemCode::Empty,
            "spec.placement",
            "names no place",
            "set poolId, kubernetesNamespace or queueName, or leave placement out",
        );
    }
    if let Some(pool) = pool {
        portable_id("spec.placement.poolId", pool, report);
    }
    if let Some(namespace) = namespace
        && !grammar::is_kubernetes_namespace(namespace)
    {
        report.refuse_with(
            ProblemCode::InvalidName,
            "spec.placement.kubernetesNamespace",
            format!("`{}` is not a Kubernetes namespace", shown(namespace)),
            "use 1 to 63 lower-case letters, digits and hyphens, first and last no hyphen",
        );
    }
    if let Some(queue) = queue {
        portable_id("spec.placement.queueName", queue, report);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};
    use serde_json::json;

    #[test]
    fn tenant_id() {
        for good in ["a", "team-blue", "a:b", "é", &"a".repeat(64)] {
            admitted(json!({"correlation": {"tenantId": good}}));
        }
        let path = "spec.correlation.tenantId";
        refused(
            json!({"correlation": {"tenantId": ""}}),
            path,
            ProblemCode::Empty,
        );
        refused(
            json!({"correlation": {"tenantId": "a".repeat(65)}}),
            path,
            ProblemCode::TooMany,
        );
        for bad in ["a.b", "*", ">", "a b", "a\u{a0}b", "a/b", "a\0b", "a\u{7f}"] {
            refused(
                json!({"correlation": {"tenantId": bad}}),
                path,
                ProblemCode::InvalidCharacters,
            );
        }
    }

    #[test]
    fn free_correlation_texts_are_free() {
        admitted(json!({"correlation": {"correlationId": "", "platform": "", "labels": {"": ""}}}));
    }

    #[test]
    fn placement() {
        admitted(json!({"placement": {"poolId": "a"}}));
        admitted(json!({"placement": {"kubernetesNamespace": "cells-blue"}}));
        admitted(json!({"placement": {"queueName": "agents.low"}}));
        refused(
            json!({"placement": {}}),
            "spec.placement",
            ProblemCode::Empty,
        );
        for (field, bad) in [
            ("poolId", ""),
            ("poolId", "a/b"),
            ("queueName", "-a"),
            ("kubernetesNamespace", "Cells"),
            ("kubernetesNamespace", ""),
        ] {
            let path = format!("spec.placement.{field}");
            refused(
                json!({"placement": {field: bad}}),
                &path,
                ProblemCode::InvalidName,
            );
        }
    }
}
