//! What conditions compare: values of a request with operands of a policy.

use std::borrow::Cow;
use std::net::IpAddr;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// A value of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs, reason = "each is what it is called")]
pub enum Value<'a> {
    Text(&'a str),
    Number(i64),
    Bool(bool),
    Date(Timestamp),
    Address(IpAddr),
}

impl<'a> Value<'a> {
    /// The value in writing.
    pub fn text(self) -> Cow<'a, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Number(number) => Cow::Owned(number.to_string()),
            Self::Bool(true) => Cow::Borrowed("true"),
            Self::Bool(false) => Cow::Borrowed("false"),
            Self::Date(date) => Cow::Owned(date.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
            Self::Address(address) => Cow::Owned(address.to_string()),
        }
    }

    pub(super) fn number(self) -> Option<f64> {
        match self {
            Self::Text(text) => number(text),
            // Far below 2^53: days, and seconds since 1970.
            Self::Number(number) => Some(number as f64),
            Self::Date(date) => Some(date.as_second() as f64),
            Self::Bool(_) | Self::Address(_) => None,
        }
    }

    pub(super) fn date(self) -> Option<Timestamp> {
        match self {
            Self::Text(text) => date(text),
            Self::Number(seconds) => Timestamp::from_second(seconds).ok(),
            Self::Date(date) => Some(date),
            Self::Bool(_) | Self::Address(_) => None,
        }
    }

    pub(super) fn boolean(self) -> Option<bool> {
        match self {
            Self::Text(text) => boolean(text),
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn address(self) -> Option<IpAddr> {
        let address = match self {
            Self::Text(text) => text.parse().ok()?,
            Self::Address(address) => address,
            _ => return None,
        };
        // A dual-stack socket names IPv4 peers this way.
        Some(address.to_canonical())
    }
}

pub(super) fn number(text: &str) -> Option<f64> {
    let is_written_so = |b: u8| b.is_ascii_digit() || b"+-.eE".contains(&b);
    let number: f64 = text.bytes().all(is_written_so).then(|| text.parse().ok())??;
    number.is_finite().then_some(number)
}

pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// A time as ISO 8601 has it, a day (its beginning in UTC), or seconds since 1970.
pub(super) fn date(text: &str) -> Option<Timestamp> {
    if let Ok(seconds) = text.parse() {
        return Timestamp::from_second(seconds).ok();
    }
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    let day: Date = (text.len() == 10).then(|| text.parse().ok())??;
    Some(day.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// A range of addresses: `203.0.113.0/24`, or one address.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let is_number = |bits: &&str| !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
        let bits = match bits {
            Some(bits) => Some(bits).filter(is_number)?.parse().ok()?,
            None => most,
        };
        (bits <= most).then_some(Self { address, bits })
    }

    pub(super) fn contains(self, address: IpAddr) -> bool {
        let shifted = |number: u128, width: u32| number.checked_shr(width - self.bits).unwrap_or(0);
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                shifted(network.to_bits().into(), 32) == shifted(address.to_bits().into(), 32)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                shifted(network.to_bits(), 128) == shifted(address.to_bits(), 128)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_form_that_policies_use() {
        let wanted = Timestamp::from_second(1_577_836_800).unwrap();
        for text in [
            "2020-01-01",
            "2020-01-01T00:00Z",
            "2020-01-01T00:00:00Z",
            "2020-01-01T01:00:00+01:00",
            "1577836800",
        ] {
            assert_eq!(date(text), Some(wanted), "{text}");
        }
        for text in ["", "today", "2020-13-01", "2020", "99999999999999999999"] {
            assert_ne!(date(text), Some(wanted), "{text}");
        }
        assert_eq!(date("today"), None);
        assert_eq!(Value::Date(wanted).text(), "2020-01-01T00:00:00Z");
    }

    #[test]
    fn networks_hold_their_addresses() {
        let holds = |network: &str, address: &str| {
            Network::parse(network).unwrap().contains(Value::Text(address).address().unwrap())
        };
        assert!(holds("203.0.113.0/24", "203.0.113.255"));
        assert!(!holds("203.0.113.0/24", "203.0.114.0"));
        assert!(holds("203.0.113.7", "203.0.113.7") && !holds("203.0.113.7", "203.0.113.6"));
        assert!(holds("0.0.0.0/0", "1.2.3.4") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("::/0", "2001:db8::1") && holds("2001:db8::/32", "2001:db8:ffff::"));
        assert!(holds("203.0.113.0/24", "::ffff:203.0.113.9"));
        for text in ["", "1.2.3", "1.2.3.4/33", "1.2.3.4/", "1.2.3.4/+8", "::/129", "1.2.3.4/-1"] {
            assert!(Network::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn numbers_are_decimal_and_finite() {
        assert_eq!(number("7"), Some(7.0));
        assert_eq!(number("-1.5"), Some(-1.5));
        for text in ["", "inf", "NaN", "1e999", "0x10", "seven"] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
