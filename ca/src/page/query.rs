//! The query of an address.

use http::Uri;

/// More of it is not read.
const LONGEST: usize = 8192;

/// Names and values, decoded (WHATWG URL, application/x-www-form-urlencoded).
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn of(uri: &Uri) -> Self {
        let query = uri.query().unwrap_or_default();
        let query = query.get(..LONGEST).unwrap_or(query);
        let pairs = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(name), decode(value))
            });
        Self(pairs.collect())
    }

    /// The first value of this name, without white space around it; empty if there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        let mut pairs = self.0.iter();
        let found = pairs.find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value.trim())
    }
}

/// Whether the query of an address has one of these names, in whatever case, wherever it is: past
/// what is read otherwise, and behind a `;`, which some take for a `&`.
pub(super) fn names_one_of(uri: &Uri, names: &[&str]) -> bool {
    let query = uri.query().unwrap_or_default();
    query.split(['&', ';']).any(|pair| {
        let (name, _) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name);
        names.iter().any(|known| known.eq_ignore_ascii_case(&name))
    })
}

/// `%41` as `A`, `+` as a blank; what is no UTF-8 then is replaced.
pub(super) fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let mut decoded = [0];
        rest = match (first, after.first_chunk::<2>()) {
            (b'%', Some(digits)) if crate::hex::decode(digits, &mut decoded) => {
                bytes.push(decoded[0]);
                &after[2..]
            }
            (b'+', _) => {
                bytes.push(b' ');
                after
            }
            _ => {
                bytes.push(*first);
                after
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_noticed_wherever_it_is_and_however_it_is_written() {
        let long = format!("/x?q={}&token=1", "a".repeat(2 * LONGEST));
        for uri in [
            "/x?token=1",
            "/x?a=1&%54OKEN",
            "/x?a=1;token=1",
            "/x?a;b;Token=1",
            &long,
        ] {
            let uri = uri.parse().expect("an address");
            assert!(names_one_of(&uri, &["other", "token"]), "{uri}");
        }
        for uri in ["/x", "/x?q=token", "/x?tokens=1"] {
            let uri = uri.parse().expect("an address");
            assert!(!names_one_of(&uri, &["token"]), "{uri}");
        }
    }

    #[test]
    fn names_and_values_are_decoded_and_nothing_breaks_on_the_rest() {
        let uri = "/x?q=spiffe%3A%2F%2Fa%2Bb+c&%54OKEN&=&%zz=%f&q=2";
        let query = Query::of(&uri.parse().expect("an address"));
        assert_eq!(query.get("q"), "spiffe://a+b c");
        assert_eq!(query.get("%zz"), "%f");
        assert_eq!(query.get("none"), "");
        assert_eq!(decode("%ff"), "\u{fffd}");
    }
}
