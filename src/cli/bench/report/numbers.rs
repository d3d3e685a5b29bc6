//! How numbers are written, in every kind of report. Pure.

/// Microseconds as milliseconds, to the microsecond.
pub(super) fn millis(us: Option<f64>) -> String {
    us.map_or("-".into(), |us| format!("{:.3}", us / 1e3))
}

/// How much more, in milliseconds, with its sign.
pub(super) fn more_millis(us: Option<f64>) -> String {
    us.map_or("-".into(), |us| format!("{:+.3}", us / 1e3))
}

/// With so many decimals at the most, and without zeros at the end that say nothing.
pub(super) fn round(number: f64, decimals: usize) -> String {
    let text = format!("{number:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A whole number with its thousands apart.
pub(super) fn thousands(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        let shown = [0.0, 999.0, 1000.0, 1_234_567.4].map(thousands);
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.1, 1.0, 10.0, 0.0004].map(|number| round(number, 3)), ["0.1", "1", "10", "0"]);
        assert_eq!(round(1200.0, 0), "1200");
        assert_eq!([millis(Some(1234.4)), more_millis(Some(1.0)), millis(None)], ["1.234", "+0.001", "-"]);
    }
}
