//! Taking in what a run used: secrets, connections, artifacts.

use std::path::{Component, Path, PathBuf};

use super::{
    grants,
    network::{self, FlowView},
    parts::{ExportView, IdentityStage, IdentityView},
    step::Step,
    take::{Event, cut, items, kept, missing, push, push_checked},
    view::RunView,
};
use crate::finding::FindingKind;

pub(super) fn touched(view: &mut RunView, event: &mut Event<'_, '_>) {
    let Some(declared) = &view.declared else {
        return;
    };
    let (name, path) = (
        event.data.artifact_name.as_deref().unwrap_or_default(),
        event.data.source_path.as_deref(),
    );
    let is_declared = declared.artifacts.iter().any(|artifact| {
        artifact.name == cut(name)
            && artifact
                .path
                .as_deref()
                .zip(path)
                .is_none_or(|(declared, used)| is_at(declared, used))
    });
    if !is_declared {
        let detail = format!(
            "a file was opened for export as {:?} from {:?}, which the document does not declare",
            cut(name),
            cut(path.unwrap_or_default())
        );
        view.find(
            event.findings,
            event.place,
            FindingKind::UndeclaredExport,
            detail,
        );
    }
}

/// Whether a file of the cell is the declared one. What is declared without a slash at its front
/// is below the working folder of the command, which the events do not name.
fn is_at(declared: &str, used: &str) -> bool {
    let declared: PathBuf = Path::new(declared)
        .components()
        .filter(|part| !matches!(part, Component::CurDir))
        .collect();
    let used = Path::new(used);
    match declared.is_absolute() {
        true => used == declared,
        false => used.ends_with(&declared),
    }
}

pub(super) fn exported(view: &mut RunView, step: Step, event: &mut Event<'_, '_>) {
    let data = event.data;
    let receipt = data.receipt.as_deref();
    let Some(name) = data.artifact_name.as_deref() else {
        return missing(view, event, "artifactName");
    };
    let sha256 = data
        .sha256
        .as_deref()
        .or_else(|| receipt.and_then(|receipt| receipt.sha256.as_deref()));
    let (export, size) = view.weigh(|view| ExportView {
        name: view.text(name),
        target_kind: kept(
            view,
            receipt
                .and_then(|receipt| receipt.target_kind.as_deref())
                .or(data.target_kind.as_deref()),
        ),
        target_name: kept(
            view,
            receipt
                .and_then(|receipt| receipt.target_name.as_deref())
                .or(data.target_name.as_deref()),
        ),
        destination: kept(
            view,
            receipt
                .and_then(|receipt| receipt.destination.as_deref())
                .or(data.destination.as_deref())
                .or(data.destination_relative.as_deref()),
        ),
        bytes_written: receipt
            .and_then(|receipt| receipt.bytes_written)
            .or(data.bytes_written),
        sha256: kept(view, sha256),
        failure: (step == Step::ExportFailed)
            .then(|| view.text(data.reason.as_deref().unwrap_or("no reason given"))),
        place: event.place.clone(),
    });
    grants::check_export(view, &export, event.findings);
    push_checked(view, |view| &mut view.exports, (export, size), event);
}

pub(super) fn identity(view: &mut RunView, step: Step, event: &mut Event<'_, '_>) {
    let data = event.data;
    let facts = data.identity.as_deref();
    let Some(secret) = facts.and_then(|identity| identity.secret_ref.as_deref()) else {
        return missing(view, event, "identity.secretRef");
    };
    let stage = match (step, data.operation.as_deref()) {
        (Step::Materialized, _) => IdentityStage::Materialized,
        (Step::Revoked, _) => IdentityStage::Revoked,
        (_, Some("revoke")) => IdentityStage::RevokeFailed,
        _ => IdentityStage::MaterializeFailed,
    };
    let (identity, size) = view.weigh(|view| IdentityView {
        secret_ref: view.text(secret),
        kind: kept(
            view,
            facts.and_then(|facts| facts.kind.as_ref()).map(|k| &*k.0),
        ),
        provider: kept(view, facts.and_then(|facts| facts.provider.as_deref())),
        audience: kept(view, facts.and_then(|facts| facts.audience.as_deref())),
        stage,
        place: event.place.clone(),
    });
    grants::check_identity(view, &identity, event.findings);
    push_checked(view, |view| &mut view.identities, (identity, size), event);
}

pub(super) fn flow(view: &mut RunView, step: Step, event: &mut Event<'_, '_>) {
    let (flow, size) = view.weigh(|view| {
        let text = &mut |text: &str| view.text(text);
        FlowView::read(step, event.data, event.time, event.place, text)
    });
    let Some(flow) = flow else {
        return missing(view, event, "decision");
    };
    network::count(view, &flow);
    grants::check_flow(view, &flow, event.findings);
    push_checked(view, |view| &mut view.flows, (flow, size), event);
}

pub(super) fn resolution(view: &mut RunView, event: &mut Event<'_, '_>) {
    let name = event.data.fqdn.as_deref().unwrap_or_default();
    for target in items(event.data.targets.as_ref()) {
        let pair = view.weigh(|view| {
            let address = target.address.as_deref().unwrap_or_default();
            (view.text(name), view.text(address))
        });
        push(view, |view| &mut view.resolved, pair);
    }
    if !view.resolved.is_complete() {
        let detail = "a name resolved to more addresses than are kept";
        view.find(
            event.findings,
            event.place,
            FindingKind::NotFollowed,
            detail,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::is_at;

    #[test]
    fn a_declared_file_is_found_below_whatever_folder_the_command_ran_in() {
        for (declared, used, is) in [
            ("out.txt", "/work/out.txt", true),
            ("./out.txt", "/work/out.txt", true),
            ("a/out.txt", "/work/a/out.txt", true),
            ("a/out.txt", "/work/b/out.txt", false),
            ("out.txt", "/work/about.txt", false),
            ("out.txt", "/work/out.txt/x", false),
            ("/w/out", "/w/out", true),
            ("/w/out", "/x/w/out", false),
        ] {
            assert_eq!(is_at(declared, used), is, "{declared} {used}");
        }
    }
}
