//! Writes HTML. Whatever is not written in this program's own source is escaped: markup is
//! `&'static str`, everything else goes through [`Html::text`].

use std::fmt::{self, Display, Write as _};

/// A document, or a part of one, that is being written.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Markup of the program's own.
    pub(super) fn raw(&mut self, markup: &'static str) {
        self.0.push_str(markup);
    }

    /// What somebody else may have written: as text, or as the value of an attribute in
    /// double quotes.
    pub(super) fn text(&mut self, text: impl Display) {
        write!(Escape(&mut self.0), "{text}").expect("a string takes every write");
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// Literals are markup, and what stands in braces is text.
macro_rules! put {
    (@ $html:ident { $text:expr }) => { $html.text($text) };
    (@ $html:ident $markup:literal) => { $html.raw($markup) };
    ($html:ident, $($part:tt)+) => {{ $( $crate::page::html::put!(@ $html $part); )+ }};
}
pub(super) use put;

struct Escape<'s>(&'s mut String);

impl fmt::Write for Escape<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' | '\t' => self.0.push(character),
                _ if steers(character) => write!(self.0, "{}", character.escape_default())?,
                _ => self.0.push(character),
            }
        }
        Ok(())
    }
}

/// What would turn the order of what is read, or hide in it.
fn steers(character: char) -> bool {
    let invisible = matches!(character,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    character.is_control() || invisible
}

/// A part of a path or a query: only what needs no encoding stays as it is (RFC 3986, 2.3).
pub(super) struct Url<'t>(pub(super) &'t str);

impl Display for Url<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    f.write_char(char::from(byte))?;
                }
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(text: &str) -> String {
        let mut html = Html::default();
        html.text(text);
        html.finish()
    }

    #[test]
    fn text_cannot_become_markup_nor_leave_an_attribute() {
        assert_eq!(
            escaped("<script>alert('x')</script>\" onload=\"&amp;"),
            "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot; onload=&quot;&amp;amp;"
        );
    }

    #[test]
    fn what_steers_a_terminal_or_turns_the_order_of_reading_is_shown() {
        assert_eq!(
            escaped("a\u{1b}[2J\u{202e}b\u{0}\u{feff}c"),
            "a\\u{1b}[2J\\u{202e}b\\u{0}\\u{feff}c"
        );
        assert_eq!(escaped("ä\n日本\t🙂"), "ä\n日本\t🙂");
    }

    #[test]
    fn a_part_of_an_address_is_encoded_whatever_is_in_it() {
        assert_eq!(
            Url("c1/n 1?x=\"&#'<ä").to_string(),
            "c1%2Fn%201%3Fx%3D%22%26%23%27%3C%C3%A4"
        );
    }

    proptest! {
        #[test]
        fn no_text_brings_a_sign_that_means_something_in_html(text in any::<String>()) {
            let escaped = escaped(&text);
            for sign in ['<', '>', '"', '\'', '\0', '\u{202e}'] {
                prop_assert!(!escaped.contains(sign), "{escaped:?}");
            }
            for (place, _) in escaped.match_indices('&') {
                let known = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"];
                prop_assert!(known.iter().any(|entity| escaped[place..].starts_with(entity)));
            }
        }
    }
}
