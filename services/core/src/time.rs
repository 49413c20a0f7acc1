//! Times in JSON.

use std::fmt;

use chrono::{DateTime, NaiveDate, Utc};
use serde::{
    Deserialize as _, Deserializer,
    de::{Error, IntoDeserializer as _, Visitor},
};

/// For `deserialize_with`: whatever `chrono` reads, and sooner where it is as this pipeline writes it. By far most of the time that
/// `chrono` needs for an event's time goes into what an event never has.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
    struct Time;

    impl Visitor<'_> for Time {
        type Value = DateTime<Utc>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a time by RFC 3339, such as 2026-01-02T03:04:05.678Z")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            utc(text.as_bytes()).map_or_else(|| DateTime::deserialize(text.into_deserializer()), Ok)
        }
    }

    deserializer.deserialize_str(Time)
}

/// `2026-01-02T03:04:05.678Z`, with up to nine digits of the second or none.
fn utc(text: &[u8]) -> Option<DateTime<Utc>> {
    let (whole, fraction) = text.strip_suffix(b"Z")?.split_at_checked(19)?;
    let &[
        y1,
        y2,
        y3,
        y4,
        b'-',
        mo1,
        mo2,
        b'-',
        d1,
        d2,
        b'T',
        h1,
        h2,
        b':',
        mi1,
        mi2,
        b':',
        s1,
        s2,
    ] = whole
    else {
        return None;
    };
    let nanosecond = match fraction {
        [] => 0,
        [b'.', digits @ ..] if (1..=9).contains(&digits.len()) => {
            number(digits.iter().chain(&[b'0'; 9]).take(9))?
        }
        _ => return None,
    };
    let date = NaiveDate::from_ymd_opt(
        number(&[y1, y2, y3, y4])?.cast_signed(),
        number(&[mo1, mo2])?,
        number(&[d1, d2])?,
    )?;
    let (hour, minute, second) = (number(&[h1, h2])?, number(&[mi1, mi2])?, number(&[s1, s2])?);
    Some(date.and_hms_nano_opt(hour, minute, second, nanosecond)?.and_utc())
}

fn number<'d>(digits: impl IntoIterator<Item = &'d u8>) -> Option<u32> {
    digits.into_iter().try_fold(0, |number, digit| {
        digit
            .is_ascii_digit()
            .then(|| number * 10 + u32::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Option<DateTime<Utc>> {
        deserialize(&mut serde_json::Deserializer::from_str(
            &serde_json::to_string(text).ok()?,
        ))
        .ok()
    }

    #[test]
    fn a_time_of_this_pipeline_needs_nobody_else() {
        for text in [
            "2026-01-02T03:04:05.678Z",
            "2026-01-02T03:04:05Z",
            "2026-02-28T23:59:59.123456789Z",
        ] {
            assert_eq!(utc(text.as_bytes()), text.parse().ok(), "{text}");
            assert!(utc(text.as_bytes()).is_some(), "{text}");
        }
    }

    proptest! {
        /// What is written, with a few characters changed, is read as `chrono` reads it or refused as it does.
        #[test]
        fn times_are_read_as_chrono_does(
            seconds in -62_167_219_300_i64..253_402_300_900,
            nanoseconds in prop_oneof![Just(0), (0..1_000_u32).prop_map(|n| n * 1_000_000), 0..1_000_000_000_u32],
            changes in prop::collection::vec((0..30_usize, "[0-9TZtz:.+ -]?"), 0..3),
        ) {
            let mut text = serde_json::to_string(&DateTime::from_timestamp(seconds, nanoseconds)).unwrap();
            text.retain(|character| character != '"');
            for (place, change) in changes {
                if place < text.len() {
                    text.replace_range(place..=place, &change);
                }
            }
            prop_assert_eq!(read(&text), serde_json::from_value(text.clone().into()).ok(), "{}", text);
        }
    }
}
