//! A protobuf reader that is fed in pieces of any size, keeps the few texts that matter
//! and steps over the rest by its length. It goes two levels deep and no deeper,
//! whatever is nested in the message.

use super::{Request, RequestError, Shape};
use crate::limits;

/// One request message under way.
pub(super) struct Skim {
    shape: Shape,
    want_node: bool,
    request: Request,
    level: Level,
    /// The message around `level`, while a part of it is read.
    outer: Option<Level>,
    step: Step,
    varint: Varint,
    text: Vec<u8>,
    /// Bytes of all names that were read.
    names_length: usize,
}

/// A message and how many of its bytes are not yet spoken for.
struct Level {
    message: Message,
    left: u32,
}

#[derive(Clone, Copy)]
enum Message {
    Request,
    Node,
    Status,
}

#[derive(Clone, Copy)]
enum Step {
    Key,
    Varint,
    Length(Field),
    Skip(u32),
    Text {
        text: Text,
        clipped: bool,
        left: u32,
    },
}

#[derive(Clone, Copy)]
enum Field {
    Unwanted,
    Text(Text),
    Message(Message),
}

#[derive(Clone, Copy)]
enum Text {
    Version,
    Name,
    Unsubscribe,
    TypeUrl,
    Nonce,
    NodeId,
    NodeCluster,
    Rejection,
}

impl Text {
    /// Most bytes of it that are held.
    fn limit(self) -> u32 {
        match self {
            Self::Name | Self::Unsubscribe => limits::NAME,
            _ => limits::TEXT,
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Varint {
    value: u64,
    shift: u32,
}

impl Skim {
    /// A message of `length` bytes.
    pub(super) fn new(shape: Shape, length: u32, want_node: bool) -> Self {
        Self {
            shape,
            want_node,
            request: Request::default(),
            level: Level {
                message: Message::Request,
                left: length,
            },
            outer: None,
            step: Step::Key,
            varint: Varint::default(),
            text: Vec::new(),
            names_length: 0,
        }
    }

    /// Reads the next bytes of the message; the caller never gives more than its length.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), RequestError> {
        while !bytes.is_empty() {
            match self.step {
                Step::Key => {
                    if let Some(key) = self.take_varint(&mut bytes)? {
                        self.step = self.key(key)?;
                    }
                }
                Step::Varint => {
                    if self.take_varint(&mut bytes)?.is_some() {
                        self.step = Step::Key;
                    }
                }
                Step::Length(field) => {
                    if let Some(length) = self.take_varint(&mut bytes)? {
                        self.step = self.enter(field, length)?;
                    }
                }
                Step::Skip(left) => {
                    let part = left.min(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                    bytes = &bytes[part as usize..];
                    self.step = if part == left {
                        Step::Key
                    } else {
                        Step::Skip(left - part)
                    };
                }
                Step::Text {
                    text,
                    clipped,
                    left,
                } => {
                    let part = left.min(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                    let (taken, rest) = bytes.split_at(part as usize);
                    bytes = rest;
                    let room = text.limit() as usize - self.text.len();
                    self.text.extend_from_slice(&taken[..taken.len().min(room)]);
                    self.step = Step::Text {
                        text,
                        clipped,
                        left: left - part,
                    };
                    if left == part {
                        self.step = Step::Key;
                        self.keep(text, clipped)?;
                    }
                }
            }
            self.leave();
        }
        Ok(())
    }

    /// The request, once all bytes of the message have been read.
    pub(super) fn finish(self) -> Result<Request, RequestError> {
        let complete =
            matches!(self.step, Step::Key) && self.varint.shift == 0 && self.outer.is_none();
        if complete {
            Ok(self.request)
        } else {
            Err(RequestError::Malformed("a field is cut off"))
        }
    }

    /// Adds one byte at a time, so that a number may be split anywhere.
    fn take_varint(&mut self, bytes: &mut &[u8]) -> Result<Option<u64>, RequestError> {
        while let Some((byte, rest)) = bytes.split_first() {
            if self.level.left == 0 {
                return Err(RequestError::Malformed(
                    "a number runs past the end of its message",
                ));
            }
            self.level.left -= 1;
            *bytes = rest;
            let Varint { value, shift } = self.varint;
            if shift == 63 && *byte > 1 {
                return Err(RequestError::Malformed("a number has more than 64 bits"));
            }
            let value = value | (u64::from(byte & 0x7f) << shift);
            if *byte < 0x80 {
                self.varint = Varint::default();
                return Ok(Some(value));
            }
            self.varint = Varint {
                value,
                shift: shift + 7,
            };
        }
        Ok(None)
    }

    fn key(&mut self, key: u64) -> Result<Step, RequestError> {
        let key = u32::try_from(key)
            .map_err(|_| RequestError::Malformed("a field number is out of range"))?;
        let number = key >> 3;
        if number == 0 {
            return Err(RequestError::Malformed("a field has the number 0"));
        }
        let field = self.field(number);
        match (key & 7, field) {
            (2, field) => Ok(Step::Length(field)),
            (0, Field::Unwanted) => Ok(Step::Varint),
            (1, Field::Unwanted) => self.claim(8).map(Step::Skip),
            (5, Field::Unwanted) => self.claim(4).map(Step::Skip),
            (3 | 4, _) => Err(RequestError::Malformed("groups are not part of proto3")),
            (6 | 7, _) => Err(RequestError::Malformed("a field has an unknown wire type")),
            _ => Err(RequestError::Malformed("a field has the wrong wire type")),
        }
    }

    /// What a field of the message under way means to us: `discovery.proto`,
    /// `base.proto` and `status.proto` in Envoy's and Google's repositories.
    fn field(&self, number: u32) -> Field {
        match (self.level.message, self.shape, number) {
            (Message::Request, Shape::StateOfTheWorld, 1) => Field::Text(Text::Version),
            (Message::Request, Shape::StateOfTheWorld, 2) | (Message::Request, Shape::Delta, 1) => {
                if self.want_node {
                    Field::Message(Message::Node)
                } else {
                    Field::Unwanted
                }
            }
            (Message::Request, _, 3) => Field::Text(Text::Name),
            (Message::Request, Shape::StateOfTheWorld, 4) | (Message::Request, Shape::Delta, 2) => {
                Field::Text(Text::TypeUrl)
            }
            (Message::Request, Shape::Delta, 4) => Field::Text(Text::Unsubscribe),
            (Message::Request, Shape::StateOfTheWorld, 5) | (Message::Request, Shape::Delta, 6) => {
                Field::Text(Text::Nonce)
            }
            (Message::Request, Shape::StateOfTheWorld, 6) | (Message::Request, Shape::Delta, 7) => {
                Field::Message(Message::Status)
            }
            (Message::Node, _, 1) => Field::Text(Text::NodeId),
            (Message::Node, _, 2) => Field::Text(Text::NodeCluster),
            (Message::Status, _, 2) => Field::Text(Text::Rejection),
            _ => Field::Unwanted,
        }
    }

    fn enter(&mut self, field: Field, length: u64) -> Result<Step, RequestError> {
        let text = match field {
            Field::Text(text) => text,
            Field::Unwanted => {
                let length = self.claim(length)?;
                return Ok(if length == 0 {
                    Step::Key
                } else {
                    Step::Skip(length)
                });
            }
            Field::Message(message) => {
                let left = self.claim(length)?;
                match message {
                    Message::Node => _ = self.request.node.get_or_insert_default(),
                    Message::Status => _ = self.request.rejection.get_or_insert_default(),
                    Message::Request => {}
                }
                self.outer = Some(std::mem::replace(&mut self.level, Level { message, left }));
                return Ok(Step::Key);
            }
        };
        let left = self.claim(length)?;
        let clipped = left > text.limit();
        if clipped && matches!(text, Text::Name | Text::Unsubscribe) {
            return Err(RequestError::NameTooLong(left));
        }
        if left == 0 {
            self.keep(text, false)?;
            return Ok(Step::Key);
        }
        self.text.reserve_exact(left.min(text.limit()) as usize);
        Ok(Step::Text {
            text,
            clipped,
            left,
        })
    }

    /// Sets bytes of the message aside for a field.
    fn claim(&mut self, length: u64) -> Result<u32, RequestError> {
        let length = u32::try_from(length)
            .ok()
            .filter(|length| *length <= self.level.left);
        let length = length.ok_or(RequestError::Malformed(
            "a field is longer than its message",
        ))?;
        self.level.left -= length;
        Ok(length)
    }

    /// Back to the message around, when the inner one is complete.
    fn leave(&mut self) {
        if self.level.left == 0
            && self.varint.shift == 0
            && matches!(self.step, Step::Key)
            && let Some(outer) = self.outer.take()
        {
            self.level = outer;
        }
    }

    fn keep(&mut self, text: Text, clipped: bool) -> Result<(), RequestError> {
        let value = match String::from_utf8(std::mem::take(&mut self.text)) {
            Ok(value) => value,
            // The cut may have gone through a character.
            Err(error) if clipped => String::from_utf8_lossy(error.as_bytes()).into_owned(),
            Err(_) => return Err(RequestError::Malformed("a text is not UTF-8")),
        };
        let request = &mut self.request;
        match text {
            Text::Version => request.version = value,
            Text::TypeUrl => request.type_url = value,
            Text::Nonce => request.nonce = value,
            Text::Name | Text::Unsubscribe => {
                self.names_length += value.len();
                if self.names_length > limits::NAMES_LENGTH {
                    return Err(RequestError::NamesTooLong);
                }
                match text {
                    Text::Name => push(&mut request.names, value)?,
                    _ => push(&mut request.unsubscribe, value)?,
                }
            }
            Text::NodeId => request.node.get_or_insert_default().id = value,
            Text::NodeCluster => request.node.get_or_insert_default().cluster = value,
            Text::Rejection => request.rejection = Some(value),
        }
        Ok(())
    }
}

fn push(names: &mut Vec<String>, name: String) -> Result<(), RequestError> {
    if names.len() == limits::NAMES {
        return Err(RequestError::TooManyNames);
    }
    names.push(name);
    Ok(())
}
