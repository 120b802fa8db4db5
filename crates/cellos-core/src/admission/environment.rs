//! `spec.environment` and `spec.ingress`.

use url::Url;

use super::{declared_secret, grammar, portable_id, report::Report, shown};
use crate::{document::ExecutionCellSpec, source::ProblemCode};

pub(super) fn check_environment(spec: &ExecutionCellSpec, report: &mut Report) {
    let Some(environment) = &spec.environment else {
        return;
    };
    if environment.image_reference.is_empty() {
        report.refuse(
            ProblemCode::Empty,
            "spec.environment.imageReference",
            "is empty",
        );
    }
    if let Some(digest) = &environment.image_digest {
        check_digest("spec.environment.imageDigest", digest, report);
    }
    if let Some(template) = &environment.template_id {
        portable_id("spec.environment.templateId", template, report);
    }
}

pub(super) fn check_ingress(spec: &ExecutionCellSpec, report: &mut Report) {
    let Some(ingress) = &spec.ingress else { return };
    let declared = spec.authority.secret_refs.as_ref();
    if let Some(git) = &ingress.git {
        if let Some(url) = &git.url {
            check_git_url(url, report);
        }
        if let Some(secret) = &git.secret_ref {
            check_secret("spec.ingress.git.secretRef", secret, declared, report);
        }
    }
    if let Some(image) = &ingress.oci_image {
        if image.reference.is_empty() {
            report.refuse(
                ProblemCode::Empty,
                "spec.ingress.ociImage.reference",
                "is empty",
            );
        }
        if let Some(digest) = &image.digest {
            check_digest("spec.ingress.ociImage.digest", digest, report);
        }
        if let Some(secret) = &image.secret_ref {
            check_secret("spec.ingress.ociImage.secretRef", secret, declared, report);
        }
    }
}

fn check_secret(path: &str, name: &str, declared: Option<&Vec<String>>, report: &mut Report) {
    if grammar::is_portable_id(name) {
        declared_secret(path, name, declared, report);
    } else {
        portable_id(path, name, report);
    }
}

fn check_digest(path: &str, digest: &str, report: &mut Report) {
    if !grammar::is_sha256_ref(digest) {
        report.refuse_with(
            ProblemCode::InvalidDigest,
            path,
            format!("`{}` is not a digest", shown(digest)),
            "write `sha256:` and 64 lower-case hexadecimal digits",
        );
    }
}

/// Refuses credentials in the address. The user name alone of an SSH address says which account the
/// server has for repositories and is no secret.
fn check_git_url(text: &str, report: &mut Report) {
    let path = "spec.ingress.git.url";
    if text.is_empty() {
        report.refuse_with(ProblemCode::Empty, path, "is empty", "leave it out");
    }
    if let Ok(url) = Url::parse(text) {
        let account_only = url.password().is_none() && matches!(url.scheme(), "ssh" | "git+ssh");
        if !account_only && (!url.username().is_empty() || url.password().is_some()) {
            report.refuse_with(
                ProblemCode::CredentialsInUrl,
                path,
                "carries credentials, which would end up in events",
                "name a secret in secretRef",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};
    use serde_json::json;

    #[test]
    fn environment() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        admitted(
            json!({"environment": {"imageReference": "a", "imageDigest": digest, "templateId": "t"}}),
        );
        for (field, bad, code) in [
            ("imageReference", "", ProblemCode::Empty),
            ("imageDigest", "sha256:x", ProblemCode::InvalidDigest),
            ("templateId", "a b", ProblemCode::InvalidName),
        ] {
            let mut environment = json!({"imageReference": "a"});
            environment[field] = bad.into();
            let path = format!("spec.environment.{field}");
            refused(json!({"environment": environment}), &path, code);
        }
    }

    #[test]
    fn ingress_addresses_carry_no_credentials() {
        for good in [
            "https://git.example.net/blue/notes.git",
            "git@git.example.net:blue/notes.git",
            "ssh://git@git.example.net/blue/notes.git",
            "../relative",
        ] {
            admitted(json!({"ingress": {"git": {"url": good}}}));
        }
        for bad in [
            "https://u:p@h/x",
            "https://token@h/x",
            "ssh://git:p@h/x",
            "https://:p@h/",
        ] {
            refused(
                json!({"ingress": {"git": {"url": bad}}}),
                "spec.ingress.git.url",
                ProblemCode::CredentialsInUrl,
            );
        }
        refused(
            json!({"ingress": {"git": {"url": ""}}}),
            "spec.ingress.git.url",
            ProblemCode::Empty,
        );
        admitted(json!({"ingress": {"git": {}}}));
    }

    #[test]
    fn ingress_secrets_are_declared() {
        let path = "spec.ingress.git.secretRef";
        let ingress = json!({"git": {"secretRef": "S"}});
        admitted(json!({"authority": {"secretRefs": ["S"]}, "ingress": ingress}));
        refused(
            json!({"ingress": ingress}),
            path,
            ProblemCode::SecretNotDeclared,
        );
        let path = "spec.ingress.ociImage.secretRef";
        let image = json!({"ociImage": {"reference": "r", "secretRef": "a/b"}});
        refused(json!({"ingress": image}), path, ProblemCode::InvalidName);
    }

    #[test]
    fn ingress_image() {
        assert_eq!(
            found(json!({"ingress": {"ociImage": {"reference": "", "digest": "zzz"}}})),
            [
                (
                    "spec.ingress.ociImage.reference".to_owned(),
                    ProblemCode::Empty
                ),
                (
                    "spec.ingress.ociImage.digest".to_owned(),
                    ProblemCode::InvalidDigest
                ),
            ]
        );
    }
}
