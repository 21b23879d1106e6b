//! serde for identities and names in their printable form: configuration, JSON, logs. Never the
//! wire.

use core::fmt;
use core::marker::PhantomData;
use core::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use serde::ser::{Serialize, Serializer};

use crate::{Class, Incarnation, MessageId, Outcome, QmId, QueueName, Tag};

/// Reads a value from a string that `parse` understands.
struct Parsed<T, F> {
    expected: &'static str,
    parse: F,
    value: PhantomData<T>,
}

impl<T, F: Fn(&str) -> Option<T>> Visitor<'_> for Parsed<T, F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

fn parsed<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, D::Error> {
    let value = PhantomData;
    deserializer.deserialize_str(Parsed {
        expected,
        parse,
        value,
    })
}

macro_rules! printed {
    ($($type:ty, $expected:literal;)*) => {
        $(
            impl Serialize for $type {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.collect_str(self)
                }
            }

            impl<'de> Deserialize<'de> for $type {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    parsed(deserializer, $expected, |text| <$type>::from_str(text).ok())
                }
            }
        )*
    };
}

printed! {
    QmId, "a QMId in hyphenated form";
    Incarnation, "an incarnation, 16 hexadecimal digits";
    MessageId, "a message id, <incarnation>-<sequence>";
    Tag, "a tag, 16 hexadecimal digits";
    QueueName, "a queue name";
}

impl Serialize for Class {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Class {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "express, recoverable or transactional";
        parsed(deserializer, expected, Self::from_name)
    }
}

/// The stable name; four hexadecimal digits for a code this version does not know.
impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.name() {
            Some(name) => serializer.serialize_str(name),
            None => serializer.collect_str(&format_args!("{:04X}", self.0)),
        }
    }
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "the name of an outcome or four hexadecimal digits";
        parsed(deserializer, expected, Self::from_name)
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;

    fn check<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(value: &T, json: &str) {
        assert_eq!(serde_json::to_string(value).unwrap(), json);
        assert_eq!(&serde_json::from_str::<T>(json).unwrap(), value);
    }

    #[test]
    fn values_are_printed_and_read_back() {
        check(
            &QmId::from_bytes([0x11; 16]),
            r#""11111111-1111-1111-1111-111111111111""#,
        );
        check(&Incarnation(0x51), r#""0000000000000051""#);
        let id = MessageId {
            incarnation: Incarnation(0x51),
            sequence: 7,
        };
        check(&id, r#""0000000000000051-7""#);
        check(&Tag([0xab; 8]), r#""abababababababab""#);
        check(
            &"Orders:poison".parse::<QueueName>().unwrap(),
            r#""Orders:poison""#,
        );
        check(&Class::Transactional, r#""transactional""#);
        check(&Outcome::QUOTA_EXCEEDED, r#""queue_quota_exceeded""#);
        check(&Outcome(0x1234), r#""1234""#);
    }

    #[test]
    fn what_is_none_is_refused_by_name() {
        let wrong = serde_json::from_str::<Incarnation>(r#""51""#).unwrap_err();
        assert!(
            wrong.to_string().contains("16 hexadecimal digits"),
            "{wrong}"
        );
        assert!(serde_json::from_str::<QueueName>(r#""a/b""#).is_err());
        assert!(serde_json::from_str::<Class>(r#""durable""#).is_err());
        assert!(serde_json::from_str::<QmId>("7").is_err());
    }
}
