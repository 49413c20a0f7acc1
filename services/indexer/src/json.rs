//! JSON objects, appended to a buffer. Writing documents is much of what the indexer itself does, and `serde_json` writes piece by
//! piece, dates by way of `fmt`.

use std::io::Write as _;

use chrono::{DateTime, Datelike as _, Timelike as _, Utc};

/// An object in the making.
pub(crate) struct Object<'b> {
    body: &'b mut Vec<u8>,
    empty: bool,
}

impl<'b> Object<'b> {
    pub(crate) fn begin(body: &'b mut Vec<u8>) -> Self {
        body.push(b'{');
        Self { body, empty: true }
    }

    /// Names must need no escapes.
    #[inline]
    pub(crate) fn text(&mut self, name: &'static str, value: &str) {
        self.name(name);
        text(self.body, value);
    }

    #[inline]
    pub(crate) fn number(&mut self, name: &'static str, value: impl itoa::Integer) {
        self.name(name);
        self.body
            .extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    #[inline]
    pub(crate) fn time(&mut self, name: &'static str, value: DateTime<Utc>) {
        self.name(name);
        time(self.body, value);
    }

    pub(crate) fn object(&mut self, name: &'static str, write: impl FnOnce(&mut Object<'_>)) {
        self.name(name);
        let mut inner = Object::begin(self.body);
        write(&mut inner);
        inner.end();
    }

    pub(crate) fn end(self) {
        self.body.push(b'}');
    }

    #[inline]
    fn name(&mut self, name: &'static str) {
        let opening: &[u8] = if self.empty { b"\"" } else { b",\"" };
        self.empty = false;
        self.body.extend_from_slice(opening);
        self.body.extend_from_slice(name.as_bytes());
        self.body.extend_from_slice(b"\":");
    }
}

fn text(body: &mut Vec<u8>, value: &str) {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    body.push(b'"');
    // Without a stop at the first that is not: so many bytes are looked at at once.
    if value.bytes().fold(true, |all, byte| all & is_plain(byte)) {
        body.extend_from_slice(value.as_bytes());
    } else {
        for character in value.chars() {
            match character {
                '"' | '\\' => body.extend_from_slice(&[b'\\', character as u8]),
                // RFC 8259, section 7.
                '\0'..' ' => body.extend_from_slice(format!("\\u{:04x}", u32::from(character)).as_bytes()),
                _ => body.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
    body.push(b'"');
}

/// By RFC 3339, with as many digits of the second as it has, in groups of three.
fn time(body: &mut Vec<u8>, at: DateTime<Utc>) {
    // Without a zone: in UTC, there is nothing to add, for each part anew.
    let at_utc = at.naive_utc();
    let (day, second) = (at_utc.date(), at_utc.num_seconds_from_midnight());
    let (year, nanosecond) = (day.year(), at_utc.nanosecond());
    if !(0..=9999).contains(&year) || nanosecond >= 1_000_000_000 {
        // Neither a year of five digits nor a leap second is worth a way of its own.
        let _ = write!(
            body,
            "\"{}\"",
            at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
        );
        return;
    }
    let mut date = *b"\"0000-00-00T00:00:00";
    digits(&mut date[1..5], year.unsigned_abs());
    digits(&mut date[6..8], day.month());
    digits(&mut date[9..11], day.day());
    digits(&mut date[12..14], second / 3_600);
    digits(&mut date[15..17], second / 60 % 60);
    digits(&mut date[18..20], second % 60);
    body.extend_from_slice(&date);
    if nanosecond > 0 {
        let mut fraction = *b".000000000";
        digits(&mut fraction[1..], nanosecond);
        let length = if nanosecond % 1_000_000 == 0 {
            4
        } else if nanosecond % 1_000 == 0 {
            7
        } else {
            10
        };
        body.extend_from_slice(&fraction[..length]);
    }
    body.extend_from_slice(b"Z\"");
}

/// Fills `places` with the last digits of `number`.
fn digits(places: &mut [u8], mut number: u32) {
    for place in places.iter_mut().rev() {
        *place = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn written(write: impl FnOnce(&mut Object<'_>)) -> Vec<u8> {
        let mut body = Vec::new();
        let mut object = Object::begin(&mut body);
        write(&mut object);
        object.end();
        body
    }

    #[test]
    fn objects_may_be_empty_and_within_each_other() {
        assert_eq!(written(|_| ()), b"{}");
        let nested = written(|object| {
            object.number("a", -1);
            object.object("b", |inner| inner.text("c", "d"));
            object.number("e", i64::MAX);
        });
        assert_eq!(nested, br#"{"a":-1,"b":{"c":"d"},"e":9223372036854775807}"#);
    }

    proptest! {
        #[test]
        fn any_text_is_read_as_it_was(value in any::<String>(), odd in "[\u{0}-\u{22}\\\\]{0,8}") {
            let value = value + &odd;
            let body = written(|object| object.text("value", &value));
            let read: Value = serde_json::from_slice(&body).unwrap();
            prop_assert_eq!(read["value"].as_str(), Some(&*value));
        }

        #[test]
        fn times_are_written_as_serde_does(
            seconds in prop_oneof![-62_167_219_300_i64..253_402_300_900, 1_700_000_000_i64..1_900_000_000],
            nanoseconds in prop_oneof![
                Just(0), (0..1_000_u32).prop_map(|n| n * 1_000_000), (0..1_000_000_u32).prop_map(|n| n * 1_000),
                0..2_000_000_000_u32,
            ],
        ) {
            let Some(at) = DateTime::from_timestamp(seconds, nanoseconds) else { return Ok(()) };
            let body = written(|object| object.time("at", at));
            let expected = format!("{{\"at\":{}}}", serde_json::to_string(&at).unwrap());
            prop_assert_eq!(String::from_utf8(body).unwrap(), expected);
        }
    }
}
