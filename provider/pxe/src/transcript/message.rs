//! DHCP messages written by people: fields by name, options by number. Says nothing about whether they make sense, because
//! transcripts are also about messages that make none.

use crate::Mac;

use super::bytes::value;

/// The fixed part of a message and the magic number.
const HEAD: usize = 240;

/// What a message is padded to: the least that BOOTP allows.
const SIZE_MIN: usize = 300;

/// A field: its name, where it is, and how long it is.
const FIELDS: &[(&str, usize, usize)] = &[
    ("op", 0, 1),
    ("hops", 3, 1),
    ("xid", 4, 4),
    ("secs", 8, 2),
    ("flags", 10, 2),
    ("ciaddr", 12, 4),
    ("yiaddr", 16, 4),
    ("siaddr", 20, 4),
    ("giaddr", 24, 4),
    ("sname", 44, 64),
    ("file", 108, 128),
];

/// The bytes of a message. Numbers stand at the right end of their field, texts at the left.
pub(super) fn encode(words: &[&str], source_port: u16) -> Result<Vec<u8>, String> {
    let is_reply = !matches!(source_port, 68) && matches!(source_port, 67 | 4011);
    let mut message = vec![0; HEAD];
    message[..3].copy_from_slice(&[if is_reply { 2 } else { 1 }, 1, 6]);
    message[HEAD - 4..].copy_from_slice(&[99, 130, 83, 99]);
    for word in words {
        let (key, text) = word
            .split_once('=')
            .ok_or_else(|| format!("{word:?}: want FIELD=VALUE or OPTION=VALUE"))?;
        if key == "mac" {
            let mac: Mac = text.parse().map_err(|error| format!("{text:?}: {error}"))?;
            message[28..34].copy_from_slice(&mac.octets());
        } else if let Some((_, at, size)) = FIELDS.iter().find(|(name, ..)| *name == key) {
            let bytes = value(text)?;
            let gap = size
                .checked_sub(bytes.len())
                .ok_or_else(|| format!("{word:?} is longer than its field"))?;
            let gap = if matches!(key, "sname" | "file") {
                0
            } else {
                gap
            };
            message[at + gap..at + gap + bytes.len()].copy_from_slice(&bytes);
        } else {
            let kind: u8 = key
                .parse()
                .map_err(|_| format!("{key:?}: no field, no option"))?;
            let bytes = value(text)?;
            let length = u8::try_from(bytes.len()).map_err(|_| format!("{word:?} is too long"))?;
            message.extend([kind, length]);
            message.extend(bytes);
        }
    }
    message.push(255);
    let size = message.len().max(SIZE_MIN);
    message.resize(size, 0);
    Ok(message)
}
