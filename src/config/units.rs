//! Durations and sizes as people write them: `0.1ms`, `2s`, `64MiB`. Pure text to number and back.
//!
//! A duration must carry its unit: is `MIN_DELAY=5` five seconds or five milliseconds? Nobody should have to guess.
//! Fractions are exact, in decimal (`0.1ms` is 100,000 ns, not a float near it). This file knows no setting.

use std::time::Duration;

const NANOS: [(&str, u64); 9] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),  // the micro sign
    ("\u{3bc}s", 1_000), // the Greek letter that looks like it
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("min", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration: a decimal number and one of `ns`, `us`, `ms`, `s`, `m`, `h`. The error says what is wrong.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let (number, unit) = split_unit(text);
    if number.is_empty() {
        return Err("it is not a duration: write a number and a unit (ns, us, ms, s, m, h)".into());
    }
    if unit.is_empty() {
        return Err(format!("the number has no unit: write {number}ms or {number}s"));
    }
    let Some((_, nanos)) = NANOS.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("the unit {unit:?} is not known: write ns, us, ms, s, m or h"));
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) || number.ends_with('.') {
        return Err(format!("{number:?} is not a decimal number"));
    }
    let too_long = || "it is too long".to_owned();
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 13 {
        return Err("it has too many decimal places".into());
    }
    let scale = 10_u128.pow(fraction.len() as u32);
    let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| too_long())?;
    let scaled = digits.checked_mul(u128::from(*nanos)).ok_or_else(too_long)?;
    if scaled % scale != 0 {
        return Err("it is finer than a nanosecond".into());
    }
    u64::try_from(scaled / scale).map(Duration::from_nanos).map_err(|_| too_long())
}

/// Writes a duration so that [`parse_duration`] gives back exactly the same one.
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let (unit, size) = [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000), ("ns", 1)]
        .into_iter()
        .find(|(_, size)| nanos >= *size)
        .unwrap_or(("ms", 1_000_000));
    let places = (size as f64).log10() as usize;
    let fraction = format!("{:0places$}", nanos % size);
    match fraction.trim_end_matches('0') {
        "" => format!("{}{unit}", nanos / size),
        fraction => format!("{}.{fraction}{unit}", nanos / size),
    }
}

/// Reads a number of bytes: plain, or with `KiB`, `MiB` or `GiB`. The error says what is wrong.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let (number, unit) = split_unit(text.trim());
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "kib" => 10,
        "mib" => 20,
        "gib" => 30,
        _ => return Err(format!("the unit {unit:?} is not known: write bytes, or KiB, MiB or GiB")),
    };
    let number: usize = number.parse().map_err(|_| "it is not a whole number of bytes".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "it is too large".to_owned())
}

/// Writes a number of bytes so that [`parse_size`] gives back exactly the same one.
pub fn format_size(bytes: usize) -> String {
    match bytes {
        0 => "0".into(),
        _ if bytes.is_multiple_of(1 << 30) => format!("{}GiB", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        _ => bytes.to_string(),
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_exactly() {
        for (text, nanos) in [
            ("0.1ms", 100_000),
            ("100us", 100_000),
            ("100\u{b5}s", 100_000),
            ("0ms", 0),
            ("0.10000000ms", 100_000),
            ("2s", 2_000_000_000),
            (" 1.5 s ", 1_500_000_000),
            ("1m", 60_000_000_000),
            ("1h", 3_600_000_000_000),
            ("7ns", 7),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "ms",
            "5",
            "0",
            "0.1",
            "-1ms",
            "1,5ms",
            ".5ms",
            "5.ms",
            "1.2.3s",
            "1ms 2s",
            "1day",
            "0.1ns",
            "1e3ms",
            "99999999999h",
            "+1s",
            "1 2s",
            "999999999999999999999999999999999999999999s",
        ] {
            assert!(parse_duration(text).is_err(), "{text:?} was accepted");
        }
        assert!(parse_duration("5").unwrap_err().contains("5ms"), "a bare number is answered with the unit");
    }

    #[test]
    fn sizes_are_read_in_bytes() {
        for (text, bytes) in
            [("0", 0), ("1024", 1024), ("1KiB", 1024), ("64 MiB", 64 << 20), ("1gib", 1 << 30), ("12B", 12)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "1MB", "1.5MiB", "-1", "1 2", "99999999999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn durations_survive_writing(nanos: u64) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn sizes_survive_writing(bytes: usize) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*", number in "[0-9.]{0,40}", unit in "[a-zµ]{0,3}") {
            let _ = (parse_duration(&text), parse_size(&text));
            let mixed = format!("{number}{unit}");
            let _ = (parse_duration(&mixed), parse_size(&mixed));
        }
    }
}
