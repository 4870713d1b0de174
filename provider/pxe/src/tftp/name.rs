//! File names in the spellings of firmware (C32), turned into the one we know them by.

use super::limits::NAME_SIZE_MAX;

/// A name with plain slashes, without a drive, without what firmware leaves behind the end of it, and without anything that
/// leads upwards. `None` when nothing is left that could be one of our names.
///
/// ```
/// # use pxe::tftp::clean_name;
/// assert_eq!(clean_name(b"C:\\boot\\\\phase.efi\xff").as_deref(), Some("boot/phase.efi"));
/// assert_eq!(clean_name(b"../../etc/passwd"), None);
/// ```
pub fn clean_name(name: &[u8]) -> Option<String> {
    if name.len() > NAME_SIZE_MAX {
        return None;
    }
    // ROMs read on behind the end of option 67, up to its end mark and further (C10).
    let is_text = |byte: &u8| matches!(byte, b'!'..=b'~');
    let end = name.iter().rposition(is_text)? + 1;
    let text = std::str::from_utf8(&name[..end]).ok()?;
    if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return None;
    }
    let mut clean = String::with_capacity(text.len());
    for part in text.split(['/', '\\']) {
        let mut part = part.trim();
        // A drive, and however many of them.
        while let (true, [drive, b':', ..]) = (clean.is_empty(), part.as_bytes())
            && drive.is_ascii_alphabetic()
        {
            part = part[2..].trim_start();
        }
        match part {
            "" | "." => {}
            ".." => return None,
            part => {
                if !clean.is_empty() {
                    clean.push('/');
                }
                clean.push_str(part);
            }
        }
    }
    (!clean.is_empty()).then_some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    // C10, C32, C33
    #[test]
    fn every_spelling_is_one_name() {
        let check = |name: &[u8], expected: Option<&str>| {
            assert_eq!(
                clean_name(name).as_deref(),
                expected,
                "{}",
                name.escape_ascii()
            );
        };
        for name in [
            &b"phase.efi"[..],
            b"/phase.efi",
            b"//phase.efi",
            b"\\phase.efi",
            b"C:\\phase.efi",
            b"c:/phase.efi",
            b"c:d: phase.efi",
            b" /./c:/phase.efi",
            b"./phase.efi",
            b"phase.efi\xff",
            b"phase.efi\xff\xff",
            b"phase.efi \r\n",
            b"phase.efi\x01\x02",
        ] {
            check(name, Some("phase.efi"));
        }
        check(
            b"\\stable\\\\x86_64/phase.efi",
            Some("stable/x86_64/phase.efi"),
        );
        check(b"EFI/BOOT/GRUBX64.EFI", Some("EFI/BOOT/GRUBX64.EFI"));
        // The label of shim's boot entry.
        check(b"UEFI PXEv4 (MAC:0)", Some("UEFI PXEv4 (MAC:0)"));
        for nothing in [
            &b""[..],
            b"/",
            b"\\",
            b"\xff",
            b" ",
            b"C:",
            b"..",
            b"../phase.efi",
            b"a/../phase.efi",
            b"a\\..\\..\\phase.efi",
            b"a\xff/phase.efi",
            b"a\x00b",
            &[b'a'; 256],
        ] {
            check(nothing, None);
        }
    }
}
