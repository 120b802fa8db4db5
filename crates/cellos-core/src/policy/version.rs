//! Versions of policy packs, and the oldest that this build takes.

use std::{fmt, str::FromStr};

/// The oldest version of a policy pack that is taken without a downgrade being allowed.
pub const MIN_SUPPORTED_POLICY_PACK_VERSION: &str = "1.0.0";

const FLOOR: PackVersion = PackVersion {
    major: 1,
    minor: 0,
    patch: 0,
};

/// Whether a pack older than [`MIN_SUPPORTED_POLICY_PACK_VERSION`] is taken. Nothing else of the
/// pack is checked less.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DowngradePolicy {
    /// Older packs are refused.
    #[default]
    Refuse,
    /// Older packs are taken.
    Allow,
}

/// The version of a pack as it is compared: a pre-release counts as its release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackVersion {
    major: u64,
    minor: u64,
    patch: u64,
}

/// Why a version was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackVersionError {
    /// The text is no version.
    #[error(
        "version {found:?} is malformed; it must be MAJOR.MINOR.PATCH, optionally `-` and a \
         pre-release of letters, digits, `.` and `-`"
    )]
    Malformed {
        /// The text.
        found: String,
    },
    /// The version is too old.
    #[error(
        "version {found} is older than runtime-supported floor {MIN_SUPPORTED_POLICY_PACK_VERSION}"
    )]
    BelowFloor {
        /// The version.
        found: PackVersion,
    },
}

impl fmt::Display for PackVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for PackVersion {
    type Err = PackVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || PackVersionError::Malformed {
            found: text.to_owned(),
        };
        let (core, pre_release) = match text.split_once('-') {
            Some((core, pre_release)) => (core, Some(pre_release)),
            None => (text, None),
        };
        let well_formed = |pre: &str| {
            !pre.is_empty()
                && pre
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
        };
        if !pre_release.is_none_or(well_formed) {
            return Err(malformed());
        }
        let mut parts = core.split('.').map(decimal);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Some(major)), Some(Some(minor)), Some(Some(patch)), None) => Ok(Self {
                major,
                minor,
                patch,
            }),
            _ => Err(malformed()),
        }
    }
}

/// A decimal number without sign and leading zeros.
fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    (plain && !leading_zero)
        .then(|| text.parse().ok())
        .flatten()
}

/// Checks a pack's version; a pack without one is fine.
///
/// # Errors
/// [`PackVersionError`]. A malformed version is refused whatever the policy.
pub fn check_policy_pack_version_compatibility(
    version: Option<&str>,
    downgrade: DowngradePolicy,
) -> Result<(), PackVersionError> {
    let Some(version) = version else {
        return Ok(());
    };
    let found = version.parse::<PackVersion>()?;
    if found < FLOOR && downgrade == DowngradePolicy::Refuse {
        return Err(PackVersionError::BelowFloor { found });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_at_or_above_the_floor_pass() {
        for version in [
            None,
            Some("1.0.0"),
            Some("1.0.0-rc.1"),
            Some("99.0.0"),
            Some("1.2.3--"),
        ] {
            check_policy_pack_version_compatibility(version, DowngradePolicy::Refuse).unwrap();
        }
        assert_eq!(FLOOR, MIN_SUPPORTED_POLICY_PACK_VERSION.parse().unwrap());
    }

    #[test]
    fn older_versions_pass_only_where_a_downgrade_is_allowed() {
        for version in ["0.0.0", "0.99.99", "0.9.0-rc.1"] {
            let check = |policy| check_policy_pack_version_compatibility(Some(version), policy);
            let message = check(DowngradePolicy::Refuse).unwrap_err().to_string();
            assert!(
                message.contains("older than runtime-supported floor"),
                "{message}"
            );
            check(DowngradePolicy::Allow).unwrap();
        }
    }

    #[test]
    fn malformed_versions_are_refused_whatever_the_policy() {
        let malformed = [
            "",
            "1",
            "1.0",
            "1.0.0.0",
            "01.0.0",
            "1.00.0",
            "1.0.0-",
            "1.0.0+build",
            "1.0.0-a+b",
            "v1.0.0",
            "1..0",
            "-1.0.0",
            "+1.0.0",
            "1.0.0 ",
            "1.0.0-a_b",
            "1.0.18446744073709551616",
        ];
        for version in malformed {
            assert!(
                matches!(
                    check_policy_pack_version_compatibility(Some(version), DowngradePolicy::Allow),
                    Err(PackVersionError::Malformed { .. })
                ),
                "{version:?}"
            );
        }
    }
}
