//! Kubernetes' quantities, as far as to tell whether two texts stand for the same one. Pure.
//!
//! A quantity is a decimal number and a suffix: a power of 1000 (`m`, `k`, `M`, …), of 1024 (`Ki`, `Mi`, …) or of ten (`e3`).
//! <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>

/// The finest that Kubernetes keeps.
const DIGITS: i32 = 9;

/// Whether two texts stand for the same quantity; one that is none is only like itself.
pub fn same(one: &str, other: &str) -> bool {
    one == other || matches!((nanos(one), nanos(other)), (Some(one), Some(other)) if one == other)
}

/// A quantity in billionths; `None` where it is finer, too big, or no quantity.
fn nanos(text: &str) -> Option<i128> {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (tens, twos) = match suffix {
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "" => (0, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 10),
        "Mi" => (0, 20),
        "Gi" => (0, 30),
        "Ti" => (0, 40),
        "Pi" => (0, 50),
        "Ei" => (0, 60),
        _ => (suffix.strip_prefix(['e', 'E'])?.parse().ok()?, 0),
    };
    let tens = i32::checked_sub(tens, i32::try_from(fraction.len()).ok()?)?.checked_add(DIGITS)?;
    let power = 10_i128.checked_pow(tens.unsigned_abs())?;
    let doubled = digits.checked_mul(1 << twos)?;
    if tens >= 0 {
        doubled.checked_mul(power)
    } else {
        (doubled % power == 0).then_some(doubled / power)
    }
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn notations_of_one_quantity_are_the_same() {
        for (one, other) in [
            ("1000m", "1"),
            ("1.5", "1500m"),
            ("0.1", "100m"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1e3", "1k"),
            ("1E3", "1000"),
            ("1E", "1000P"),
            ("16Ei", "16384Pi"),
            ("+1", "1"),
            ("1.", "1"),
            (".5", "500m"),
            ("0.0000000005Gi", "0.53687091200"),
        ] {
            assert!(same(one, other), "{one} and {other}");
        }
    }

    #[test]
    fn other_quantities_and_what_is_none_are_not() {
        for (one, other) in [
            ("1", "2"),
            ("1000", "1000m"),
            ("1G", "1Gi"),
            ("1m", "1M"),
            ("", "0"),
            ("a", "b"),
            ("1x", "1"),
            ("1e99999999999", "1"),
            ("99999999999999999999999999999999999999999", "1"),
        ] {
            assert!(!same(one, other), "{one} and {other}");
        }
        assert!(same("1x", "1x"));
    }
}
