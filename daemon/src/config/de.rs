//! serde over a parsed TOML value, with errors as facts instead of sentences: what was unknown, what serde would have
//! taken, and the path to it. (toml's own errors are finished English; a near match or a line of an outer table cannot
//! be had from them without reading them back.)

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Expected, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// One step from a value to one inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

impl Step {
    /// `a.b[2].c`
    pub(super) fn parse(dotted: &str) -> Vec<Step> {
        let mut steps = Vec::new();
        for part in dotted.split('.') {
            let mut pieces = part.split('[');
            steps.extend(
                pieces
                    .next()
                    .filter(|key| !key.is_empty())
                    .map(|key| Step::Key(key.to_owned())),
            );
            steps.extend(
                pieces
                    .filter_map(|index| index.strip_suffix(']')?.parse().ok())
                    .map(Step::Index),
            );
        }
        steps
    }

    pub(super) fn dotted(path: &[Step]) -> String {
        let mut dotted = String::new();
        for step in path {
            match step {
                Step::Key(key) if dotted.is_empty() => dotted.push_str(key),
                Step::Key(key) => dotted.extend([".", key]),
                Step::Index(n) => dotted.push_str(&format!("[{n}]")),
            }
        }
        dotted
    }

    /// The table at `path` in words: `in [agent]`, `in [[clusters]]`, `at the top level`.
    pub(super) fn table(path: &[Step]) -> String {
        match path.split_last() {
            None => "at the top level".to_owned(),
            Some((Step::Index(_), list)) => format!("in [[{}]]", Self::dotted(list)),
            Some((Step::Key(_), _)) => format!("in [{}]", Self::dotted(path)),
        }
    }
}

/// Why a value was refused, and where. `path` runs from the inside out.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) path: Vec<Step>,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    UnknownKey {
        key: String,
        known: &'static [&'static str],
    },
    MissingKey(&'static str),
    UnknownWord {
        word: String,
        known: &'static [&'static str],
    },
    WrongType {
        expected: String,
        found: String,
    },
    /// The words of the type that refused it.
    Unfit(String),
}

impl From<What> for Refusal {
    fn from(what: What) -> Self {
        Self {
            path: Vec::new(),
            what,
        }
    }
}

impl Refusal {
    fn below(mut self, step: Step) -> Self {
        self.path.push(step);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.what)
    }
}

impl std::error::Error for Refusal {}

impl de::Error for Refusal {
    fn custom<T: fmt::Display>(message: T) -> Self {
        What::Unfit(message.to_string()).into()
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        What::WrongType {
            expected: in_toml_words(&expected.to_string()),
            found: in_words(&found),
        }
        .into()
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        What::UnknownKey {
            key: shortened(field),
            known,
        }
        .into()
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        What::UnknownWord {
            word: shortened(variant),
            known,
        }
        .into()
    }

    fn missing_field(field: &'static str) -> Self {
        What::MissingKey(field).into()
    }
}

/// A text where a number belongs may be a key pasted into the wrong line: texts are never repeated.
fn in_words(found: &Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(number) => format!("the number {number}"),
        Unexpected::Signed(number) => format!("the number {number}"),
        Unexpected::Float(number) => format!("the number {number:?}"),
        Unexpected::Str(_) | Unexpected::Char(_) | Unexpected::Bytes(_) => "a string".to_owned(),
        Unexpected::Seq => "an array".to_owned(),
        Unexpected::Map | Unexpected::StructVariant => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// serde speaks of Rust types; whoever writes TOML need not know them.
fn in_toml_words(expected: &str) -> String {
    let whole = |max: u64| format!("a whole number from 0 to {max}");
    match expected {
        "u8" => whole(u8::MAX.into()),
        "u16" => whole(u16::MAX.into()),
        "u32" => whole(u32::MAX.into()),
        "u64" | "usize" => "a whole number from 0".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "an array".to_owned(),
        "a map" => "a table".to_owned(),
        "path string" => "a path in quotes".to_owned(),
        other if other.starts_with("struct ") => "a table".to_owned(),
        other if other.starts_with("enum ") || other.contains("variant") => {
            "one of its words in quotes".to_owned()
        }
        other if other.starts_with("tuple struct ") => "a value of its kind".to_owned(),
        other => other.to_owned(),
    }
}

fn shortened(word: &str) -> String {
    const LONGEST: usize = 64;
    match word.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &word[..end]),
        None => word.to_owned(),
    }
}

/// A value of the file, to be deserialized.
#[derive(Clone, Copy)]
pub(super) struct Node<'a>(pub(super) &'a Spanned<DeValue<'a>>);

impl<'de> de::Deserializer<'de> for Node<'_> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.0.get_ref() {
            DeValue::String(text) => visitor.visit_str(text),
            DeValue::Boolean(value) => visitor.visit_bool(*value),
            DeValue::Integer(digits) => {
                if let Ok(number) = i64::from_str_radix(digits.as_str(), digits.radix()) {
                    visitor.visit_i64(number)
                } else if let Ok(number) = u64::from_str_radix(digits.as_str(), digits.radix()) {
                    visitor.visit_u64(number)
                } else {
                    Err(What::Unfit("the number does not fit into 64 bits".to_owned()).into())
                }
            }
            DeValue::Float(digits) => match digits.as_str().parse() {
                Ok(number) => visitor.visit_f64(number),
                Err(_) => {
                    Err(What::Unfit("not a number that can be represented".to_owned()).into())
                }
            },
            DeValue::Datetime(instant) => visitor.visit_str(&instant.to_string()),
            DeValue::Array(array) => visitor.visit_seq(Items {
                items: array.iter().enumerate(),
            }),
            DeValue::Table(table) => visitor.visit_map(Entries {
                entries: table.iter(),
                value: None,
            }),
        }
    }

    // A key that is there is never `None`: TOML has no null.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        match self.0.get_ref() {
            DeValue::String(word) => {
                let word: StrDeserializer<'_, Refusal> = word.as_ref().into_deserializer();
                visitor.visit_enum(word)
            }
            DeValue::Table(table) if table.len() == 1 => {
                visitor.visit_enum(de::value::MapAccessDeserializer::new(Entries {
                    entries: table.iter(),
                    value: None,
                }))
            }
            DeValue::Table(_) => {
                Err(What::Unfit("a table with one key was expected".to_owned()).into())
            }
            other => Err(What::WrongType {
                expected: "one of its words in quotes".to_owned(),
                found: kind(other).to_owned(),
            }
            .into()),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

struct Items<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, <DeArray<'a> as IntoIterator>::Item>>,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Refusal;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Refusal> {
        let Some((n, item)) = self.items.next() else {
            return Ok(None);
        };
        seed.deserialize(Node(item))
            .map(Some)
            .map_err(|refusal| refusal.below(Step::Index(n)))
    }
}

struct Entries<'a> {
    entries: <&'a DeTable<'a> as IntoIterator>::IntoIter,
    value: Option<(&'a str, &'a Spanned<DeValue<'a>>)>,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Refusal> {
        let Some((key, value)) = self.entries.next() else {
            return Ok(None);
        };
        let key = key.get_ref().as_ref();
        self.value = Some((key, value));
        let name: StrDeserializer<'_, Refusal> = key.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refusal> {
        let Some((key, value)) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(Node(value))
            .map_err(|refusal| refusal.below(Step::Key(key.to_owned())))
    }
}
