//! Bytes as text: hex digits, `"text"`, `HH*N` and `+N`.

use std::fmt;
use std::net::Ipv4Addr;

use crate::packet::Payload;

/// Bytes of one payload: no packet is larger.
const BYTES_MAX: usize = 65_535;

/// Equal bytes in a row from which on `HH*N` is shorter and easier to read.
const RUN_MIN: usize = 5;

/// Printable bytes in a row that are written as text: fewer are rarely words.
const TEXT_MIN: usize = 4;

/// The payload that several words spell together.
pub(super) fn payload(words: &[&str]) -> Result<Payload, String> {
    let (words, left_out) = match words {
        [words @ .., last] if last.starts_with('+') => {
            let number = last.trim_start_matches('+').parse().ok();
            let number = number.filter(|number| *number <= BYTES_MAX);
            (words, number.ok_or_else(|| wrong(last))?)
        }
        words => (words, 0),
    };
    let mut bytes = Vec::new();
    for word in words {
        read(word, &mut bytes)?;
    }
    Ok(Payload { bytes, left_out })
}

/// The bytes that one word spells: pieces without blanks between them, or an address with dots.
pub(super) fn value(word: &str) -> Result<Vec<u8>, String> {
    if let Ok(address) = word.parse::<Ipv4Addr>() {
        return Ok(address.octets().to_vec());
    }
    let mut bytes = Vec::new();
    read(word, &mut bytes)?;
    Ok(bytes)
}

fn wrong(word: &str) -> String {
    format!("{word:?}: want hex digits, \"text\" or HH*N")
}

fn read(word: &str, bytes: &mut Vec<u8>) -> Result<(), String> {
    let mut rest = word;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (text, tail) = quoted.split_once('"').ok_or_else(|| wrong(word))?;
            bytes.extend_from_slice(text.as_bytes());
            rest = tail;
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2).ok_or_else(|| wrong(word))?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong(word));
        }
        let byte = u8::from_str_radix(digits, 16).map_err(|_| wrong(word))?;
        let (times, tail) = match tail.strip_prefix('*') {
            // The number ends where the word does: digits behind it would be taken for a part of it.
            Some(number) => (number.parse().map_err(|_| wrong(word))?, ""),
            None => (1, tail),
        };
        if bytes.len().saturating_add(times) > BYTES_MAX {
            return Err(format!("more than {BYTES_MAX} bytes"));
        }
        bytes.resize(bytes.len() + times, byte);
        rest = tail;
    }
    match bytes.len() {
        0..=BYTES_MAX => Ok(()),
        _ => Err(format!("more than {BYTES_MAX} bytes")),
    }
}

/// A payload as the words that [`payload`] reads.
pub(super) struct Written<'a>(pub(super) &'a Payload);

impl fmt::Display for Written<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut rest, mut between) = (self.0.bytes.as_slice(), "");
        while let Some(first) = rest.first() {
            let run = rest.iter().take_while(|byte| *byte == first).count();
            let text = rest.iter().take_while(|byte| is_text(**byte)).count();
            let plain = plain(rest);
            let taken = match () {
                () if run >= RUN_MIN => {
                    write!(out, "{between}{first:02x}*{run}")?;
                    run
                }
                () if text >= TEXT_MIN => {
                    let text = rest.get(..text).unwrap_or_default();
                    write!(out, "{between}\"{}\"", String::from_utf8_lossy(text))?;
                    text.len()
                }
                () => {
                    out.write_str(between)?;
                    let bytes = rest.iter().take(plain);
                    bytes
                        .clone()
                        .try_for_each(|byte| write!(out, "{byte:02x}"))?;
                    plain
                }
            };
            rest = rest.get(taken..).unwrap_or_default();
            between = " ";
        }
        match self.0.left_out {
            0 => Ok(()),
            number => write!(out, "{between}+{number}"),
        }
    }
}

fn is_text(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"'
}

/// How many bytes go before the next run or text; at least one.
fn plain(bytes: &[u8]) -> usize {
    let starts = |at: &usize| {
        let here = bytes.get(*at..).unwrap_or_default();
        let first = here.first();
        let run = here.iter().take_while(|byte| Some(*byte) == first).count();
        let text = here.iter().take_while(|byte| is_text(**byte)).count();
        run >= RUN_MIN || text >= TEXT_MIN
    };
    (1..bytes.len()).find(starts).unwrap_or(bytes.len())
}
