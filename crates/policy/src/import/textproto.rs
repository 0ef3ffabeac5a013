// SPDX-License-Identifier: Apache-2.0
//! The text form of protocol buffers, as much of it as messages with scalar fields and one level of messages
//! need.
//!
//! Source: "Text Format Language Specification" of protobuf.dev. Extensions, `Any`, and floating-point
//! numbers are refused.

/// Fields of one file, at most.
const MAX_FIELDS: usize = 1024;
/// Messages within messages, at most.
const MAX_DEPTH: usize = 4;

/// A field with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) value: Value,
    pub(super) line: usize,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A number without sign.
    Number(u64),
    /// `true`, `false` or an enumerator.
    Word(String),
    /// A string or bytes.
    Bytes(Vec<u8>),
    /// A message.
    Message(Vec<Field>),
}

/// Reads a message.
pub(super) fn parse(text: &str) -> Result<Vec<Field>, String> {
    let mut parser = Parser { rest: text.as_bytes(), line: 1, fields: 0 };
    let fields = parser.message(None, 0)?;
    Ok(fields)
}

struct Parser<'a> {
    rest: &'a [u8],
    line: usize,
    fields: usize,
}

impl Parser<'_> {
    fn wrong<T>(&self, problem: &str) -> Result<T, String> {
        Err(format!("line {}: {problem}", self.line))
    }

    fn take(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        self.line += usize::from(*first == b'\n');
        Some(*first)
    }

    /// The next byte that is neither white space nor part of a comment.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.rest.first()? {
                b' ' | b'\t' | b'\r' | b'\n' => {
                    self.take();
                }
                b'#' => while self.take().is_some_and(|byte| byte != b'\n') {},
                other => return Some(*other),
            }
        }
    }

    fn accept(&mut self, expected: u8) -> bool {
        let found = self.peek() == Some(expected);
        if found {
            self.take();
        }
        found
    }

    fn word(&mut self) -> String {
        self.peek();
        let known = |byte: &u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(byte);
        let len = self.rest.iter().take_while(|byte| known(byte)).count();
        let (word, rest) = self.rest.split_at(len);
        self.rest = rest;
        String::from_utf8_lossy(word).into_owned()
    }

    fn message(&mut self, end: Option<u8>, depth: usize) -> Result<Vec<Field>, String> {
        if depth > MAX_DEPTH {
            return self.wrong("too many messages within messages");
        }
        let mut fields = Vec::new();
        loop {
            match (self.peek(), end) {
                (None, None) => return Ok(fields),
                (None, Some(_)) => return self.wrong("a message does not end"),
                (Some(found), Some(end)) if found == end => {
                    self.take();
                    return Ok(fields);
                }
                _ => {}
            }
            let line = self.line;
            let name = self.word();
            if !name.bytes().next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_') {
                return self.wrong("expected the name of a field");
            }
            let colon = self.accept(b':');
            let mut values = Vec::new();
            if self.accept(b'[') {
                if !colon {
                    return self.wrong("a list needs a colon");
                }
                while !self.accept(b']') {
                    values.push(self.value(true, depth)?);
                    if !self.accept(b',') && self.peek() != Some(b']') {
                        return self.wrong("expected a comma or ]");
                    }
                    self.count()?;
                }
            } else {
                values.push(self.value(colon, depth)?);
            }
            self.count()?;
            fields.extend(values.into_iter().map(|value| Field { name: name.clone(), value, line }));
            if !self.accept(b',') {
                self.accept(b';');
            }
        }
    }

    fn count(&mut self) -> Result<(), String> {
        self.fields += 1;
        if self.fields > MAX_FIELDS { self.wrong("too many fields") } else { Ok(()) }
    }

    fn value(&mut self, scalar: bool, depth: usize) -> Result<Value, String> {
        match self.peek() {
            Some(b'{') => {
                self.take();
                Ok(Value::Message(self.message(Some(b'}'), depth + 1)?))
            }
            Some(b'<') => {
                self.take();
                Ok(Value::Message(self.message(Some(b'>'), depth + 1)?))
            }
            _ if !scalar => self.wrong("expected a colon or a message"),
            Some(b'"' | b'\'') => {
                let mut bytes = Vec::new();
                // Strings side by side are one.
                while let Some(quote @ (b'"' | b'\'')) = self.peek() {
                    self.take();
                    self.string(quote, &mut bytes)?;
                }
                Ok(Value::Bytes(bytes))
            }
            _ => {
                let word = self.word();
                match word.bytes().next() {
                    Some(first) if first.is_ascii_digit() => match number(&word) {
                        Some(number) => Ok(Value::Number(number)),
                        None => self.wrong(&format!("{word:?} is not an unsigned number of at most 64 bits")),
                    },
                    Some(first) if first.is_ascii_alphabetic() => Ok(Value::Word(word)),
                    _ => self.wrong("expected a value"),
                }
            }
        }
    }

    fn string(&mut self, quote: u8, out: &mut Vec<u8>) -> Result<(), String> {
        loop {
            match self.take() {
                None | Some(b'\n') => return self.wrong("a string does not end"),
                Some(byte) if byte == quote => return Ok(()),
                Some(b'\\') => {
                    let byte = self.escape()?;
                    out.push(byte);
                }
                Some(byte) => out.push(byte),
            }
        }
    }

    fn escape(&mut self) -> Result<u8, String> {
        let digit = |byte: u8, radix: u32| char::from(byte).to_digit(radix);
        Ok(match self.take() {
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'a') => 7,
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'v') => 11,
            Some(byte @ (b'\\' | b'"' | b'\'' | b'?')) => byte,
            Some(b'x' | b'X') => {
                let mut value = 0;
                let mut count = 0;
                while let Some(digit) =
                    self.rest.first().and_then(|byte| digit(*byte, 16)).filter(|_| count < 2)
                {
                    self.take();
                    value = value * 16 + digit;
                    count += 1;
                }
                match u8::try_from(value) {
                    Ok(byte) if count > 0 => byte,
                    _ => return self.wrong("\\x without digits"),
                }
            }
            Some(byte @ b'0'..=b'7') => {
                let mut value = u32::from(byte - b'0');
                for _ in 0..2 {
                    let Some(digit) = self.rest.first().and_then(|byte| digit(*byte, 8)) else { break };
                    self.take();
                    value = value * 8 + digit;
                }
                match u8::try_from(value) {
                    Ok(byte) => byte,
                    Err(_) => return self.wrong("an octal escape of more than \\377"),
                }
            }
            _ => return self.wrong("an escape that is not known"),
        })
    }
}

fn number(word: &str) -> Option<u64> {
    if let Some(digits) = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        return u64::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'));
    }
    if word.len() > 1 && word.starts_with('0') {
        return u64::from_str_radix(word, 8).ok();
    }
    word.parse().ok()
}
