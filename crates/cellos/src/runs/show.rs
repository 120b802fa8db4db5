//! Times and sizes as people read them.

use jiff::Timestamp;

/// A point in time, to the second.
pub(crate) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// A length of time with as many digits as say something.
pub(crate) fn micros(micros: i64) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let micros = micros.unsigned_abs();
    let (seconds, rest) = (micros / 1_000_000, micros % 1_000_000);
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match micros {
        0..1_000 => format!("{sign}{micros} µs"),
        1_000..1_000_000 => format!("{sign}{}.{} ms", micros / 1000, micros % 1000 / 100),
        1_000_000..60_000_000 => format!("{sign}{seconds}.{:02} s", rest / 10_000),
        60_000_000..3_600_000_000 => format!("{sign}{minutes} min {:02} s", seconds % 60),
        _ => format!("{sign}{hours} h {:02} min", minutes % 60),
    }
}

/// Micros of an unsigned count.
pub(crate) fn unsigned_micros(count: u64) -> String {
    micros(i64::try_from(count).unwrap_or(i64::MAX))
}

/// A size in bytes, in powers of 1024.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let Some(power) = bytes
        .checked_ilog2()
        .map(|bits| bits / 10)
        .filter(|p| *p > 0)
    else {
        return format!("{bytes} B");
    };
    let unit = 1_u128 << (power * 10);
    let tenths = u128::from(bytes) * 10 / unit;
    let name = UNITS[(power - 1) as usize];
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_and_sizes_read_well() {
        for (count, shown) in [
            (0, "0 µs"),
            (999, "999 µs"),
            (1_500, "1.5 ms"),
            (1_234_567, "1.23 s"),
            (61_000_000, "1 min 01 s"),
            (7_260_000_000, "2 h 01 min"),
            (-1_500, "-1.5 ms"),
            (i64::MIN, "-2562047788 h 00 min"),
        ] {
            assert_eq!(micros(count), shown);
        }
        for (size, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(size), shown);
        }
    }
}
