//! Durations, sizes, processor shares and pairs as they are written on the command line, and
//! switches as they are written in variables.

use std::time::Duration;

use cellos_core::document::{RunCpuMax, RunUser};

/// Why a value on the command line cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnitError {
    #[error("expected a number and ms, s, m, h or d, such as 30s")]
    Duration,
    #[error("a time to live is at least one second, in whole seconds")]
    WholeSeconds,
    #[error("expected bytes, or a number and K, M, G or T (powers of 1024), such as 256M")]
    Size,
    #[error("expected a number of processors with at most five decimals, such as 0.5")]
    Cpus,
    #[error("too large")]
    TooLarge,
    #[error("expected UID or UID:GID, such as 1000:1000")]
    User,
    #[error("expected NAME=VALUE")]
    Variable,
    #[error("expected SOURCE:TARGET or SOURCE:TARGET:ro or SOURCE:TARGET:rw, such as .:/work:rw")]
    Mount,
}

/// The one grammar of switches in variables. `None` for anything else.
pub(crate) fn switch(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// Splits `30s` into its number and its unit.
fn number_and_unit(text: &str, error: UnitError) -> Result<(u64, &str), UnitError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(error);
    }
    Ok((number.parse().map_err(|_| UnitError::TooLarge)?, unit))
}

/// `500ms`, `30s`, `5m`, `2h`, `1d`.
pub(crate) fn duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = number_and_unit(text, UnitError::Duration)?;
    let millis_per_unit: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(UnitError::Duration),
    };
    number
        .checked_mul(millis_per_unit)
        .map(Duration::from_millis)
        .ok_or(UnitError::TooLarge)
}

/// A duration in whole seconds, at least one.
pub(crate) fn whole_seconds(text: &str) -> Result<u64, UnitError> {
    let duration = duration(text)?;
    if duration.subsec_nanos() != 0 || duration.is_zero() {
        return Err(UnitError::WholeSeconds);
    }
    Ok(duration.as_secs())
}

/// A duration in milliseconds.
pub(crate) fn milliseconds(text: &str) -> Result<u64, UnitError> {
    u64::try_from(duration(text)?.as_millis()).map_err(|_| UnitError::TooLarge)
}

/// `4096`, `256M`, `1GiB`. `MB` is refused: half the world reads it as 10⁶.
pub(crate) fn bytes(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = number_and_unit(text, UnitError::Size)?;
    let shift = match unit {
        "" => 0,
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        "T" | "t" | "TiB" => 40,
        _ => return Err(UnitError::Size),
    };
    number.checked_mul(1 << shift).ok_or(UnitError::TooLarge)
}

/// Length of the period that a share of processors is expressed in, in microseconds: the kernel's
/// own default.
const CPU_PERIOD_MICROS: u64 = 100_000;
/// Decimals that a share can have: one more would be below a microsecond of quota.
const CPU_DECIMALS: usize = 5;

/// `0.5`, `2`, `1.25` processors.
pub(crate) fn cpus(text: &str) -> Result<RunCpuMax, UnitError> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) || fraction.len() > CPU_DECIMALS {
        return Err(UnitError::Cpus);
    }
    let whole: u64 = whole.parse().map_err(|_| UnitError::TooLarge)?;
    let micros: u64 = format!("{fraction:0<CPU_DECIMALS$}")
        .parse()
        .map_err(|_| UnitError::Cpus)?;
    Ok(RunCpuMax {
        quota_micros: whole
            .checked_mul(CPU_PERIOD_MICROS)
            .and_then(|quota| quota.checked_add(micros))
            .ok_or(UnitError::TooLarge)?,
        period_micros: Some(CPU_PERIOD_MICROS),
    })
}

/// `1000` or `1000:1000`; the group is the user's number when absent.
pub(crate) fn user(text: &str) -> Result<RunUser, UnitError> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    Ok(RunUser {
        uid: uid.parse().map_err(|_| UnitError::User)?,
        gid: gid.parse().map_err(|_| UnitError::User)?,
    })
}

/// `NAME=VALUE`.
pub(crate) fn variable(text: &str) -> Result<(String, String), UnitError> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(UnitError::Variable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_their_unit() {
        assert_eq!(milliseconds("500ms"), Ok(500));
        assert_eq!(milliseconds("2h"), Ok(7_200_000));
        assert_eq!(whole_seconds("1d"), Ok(86_400));
        for bad in ["", "30", "s", "-1s", "1.5s", "30 s", "30sec"] {
            assert_eq!(duration(bad), Err(UnitError::Duration), "{bad}");
        }
        assert_eq!(whole_seconds("1500ms"), Err(UnitError::WholeSeconds));
        assert_eq!(whole_seconds("0s"), Err(UnitError::WholeSeconds));
        assert_eq!(duration("99999999999999999999s"), Err(UnitError::TooLarge));
        assert_eq!(duration("18446744073709551615h"), Err(UnitError::TooLarge));
    }

    #[test]
    fn sizes_are_powers_of_1024_and_nothing_ambiguous() {
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes("256M"), Ok(256 << 20));
        assert_eq!(bytes("1GiB"), Ok(1 << 30));
        for bad in ["256MB", "M", "1.5G", "-1", "1 G"] {
            assert_eq!(bytes(bad), Err(UnitError::Size), "{bad}");
        }
        assert_eq!(bytes("99999999T"), Err(UnitError::TooLarge));
    }

    #[test]
    fn processor_shares_are_exact() {
        let quota = |text| cpus(text).map(|max| max.quota_micros);
        assert_eq!(quota("0.5"), Ok(50_000));
        assert_eq!(quota("2"), Ok(200_000));
        assert_eq!(quota("1.00001"), Ok(100_001));
        for bad in ["", ".5", "1.", "-1", "1e3", "0.000001", "half"] {
            assert_eq!(quota(bad), Err(UnitError::Cpus), "{bad}");
        }
    }

    #[test]
    fn users_and_variables() {
        assert_eq!(
            user("1000"),
            Ok(RunUser {
                uid: 1000,
                gid: 1000
            })
        );
        assert_eq!(user("1:2"), Ok(RunUser { uid: 1, gid: 2 }));
        assert_eq!(user("root"), Err(UnitError::User));
        assert_eq!(variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(variable("=b"), Err(UnitError::Variable));
        assert_eq!(variable("A"), Err(UnitError::Variable));
    }
}
