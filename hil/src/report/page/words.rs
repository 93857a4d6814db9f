//! Times and numbers in words, the same everywhere on the page.

/// `240 ms`, `1.2 s`, `3 min 05 s`.
pub(crate) fn time(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        // Rounded, half up: 9960 ms are 10.0 s.
        1000..60_000 => {
            let tenths = (ms + 50) / 100;
            format!("{}.{} s", tenths / 10, tenths % 10)
        }
        _ => {
            let seconds = (ms + 500) / 1000;
            format!("{} min {:02} s", seconds / 60, seconds % 60)
        }
    }
}

/// `after 240 ms`; `at once`.
pub(super) fn soon(ms: u64) -> String {
    if ms == 0 { "at once".to_owned() } else { format!("after {}", time(ms)) }
}

/// `680 µs`, `1.5 ms`, `1 s`.
pub(super) fn micros(us: u64) -> String {
    let scaled = |unit_us: u64, unit: &str| {
        let tenths = (us * 10 + unit_us / 2) / unit_us;
        if tenths.is_multiple_of(10) {
            format!("{} {unit}", tenths / 10)
        } else {
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
    };
    match us {
        0..1000 => format!("{us} µs"),
        1000..1_000_000 => scaled(1000, "ms"),
        _ => scaled(1_000_000, "s"),
    }
}

/// `1 234 567`, with thin spaces, which don't break.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// `1 fault`, `2 faults`.
pub(super) fn several(number: usize, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// `1.2 kB`, `3.4 GB`: powers of 1000.
pub(super) fn bytes(bytes: u64) -> String {
    let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [0, 999, 1000, 9960, 59_949, 185_000].map(time),
            ["0 ms", "999 ms", "1.0 s", "10.0 s", "59.9 s", "3 min 05 s"]
        );
        assert_eq!([7, 1000, 1500, 1_000_000].map(micros), ["7 µs", "1 ms", "1.5 ms", "1 s"]);
        assert_eq!([5, 1234, 1_234_567].map(count), ["5", "1\u{202f}234", "1\u{202f}234\u{202f}567"]);
        assert_eq!([12, 1234, 3_450_000, 2_000_000_000].map(bytes), ["12 B", "1.2 kB", "3.4 MB", "2.0 GB"]);
        assert_eq!([several(1, "fault"), several(2, "fault")], ["1 fault", "2 faults"]);
    }
}
