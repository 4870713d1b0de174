//! The smallest program that 64-bit Arm firmware starts: it says one line and goes back. Nothing here can build real ones
//! for Arm, and that the firmware fetched and ran the file it was meant to fetch is all that is to be seen.

/// What it says.
pub const ARM_SAYS: &str = "arm64 boot file started";

/// Bytes of a section in the file, and of a page in memory: both the same, so that addresses are places in the file.
const PAGE: usize = 4096;
/// Bytes of the program before its text.
const CODE_SIZE: u32 = 32;

/// The program (PE32+, EFI application).
#[must_use]
pub fn arm_program() -> Vec<u8> {
    let mut file = vec![0; 0x80];
    file[..2].copy_from_slice(b"MZ");
    file[0x3c..0x40].copy_from_slice(&0x80_u32.to_le_bytes());
    file.extend(head());
    file.extend(section());
    file.resize(PAGE, 0);
    for word in code() {
        file.extend(word.to_le_bytes());
    }
    for character in format!("{ARM_SAYS}\r\n\0").encode_utf16() {
        file.extend(character.to_le_bytes());
    }
    file.resize(2 * PAGE, 0);
    file
}

/// `ConOut->OutputString(ConOut, text)`, and success.
fn code() -> [u32; 8] {
    [
        0xa9bf_7bfd,                           // stp x29, x30, [sp, #-16]!
        0xf940_2020,                           // ldr x0, [x1, #64]: the system table's ConOut
        0xf940_0409,                           // ldr x9, [x0, #8]: OutputString
        0x1000_0001 | ((CODE_SIZE - 12) << 3), // adr x1, text
        0xd63f_0120,                           // blr x9
        0xd280_0000,                           // mov x0, #0
        0xa8c1_7bfd,                           // ldp x29, x30, [sp], #16
        0xd65f_03c0,                           // ret
    ]
}

fn head() -> Vec<u8> {
    let page = u32::try_from(PAGE).unwrap_or_default();
    let mut head = b"PE\0\0".to_vec();
    put16(&mut head, &[0xaa64, 1]); // machine, sections
    put32(&mut head, &[0, 0, 0]); // time, symbols
    put16(&mut head, &[0xf0, 0x22]); // size of what follows; executable, large addresses
    put16(&mut head, &[0x20b, 0]); // PE32+
    put32(&mut head, &[page, 0, 0, page, page]); // code, data, entry, code
    put32(&mut head, &[0, 0, page, page]); // image base (64 bits), alignments
    put16(&mut head, &[0; 8]); // versions of everything
    put32(&mut head, &[2 * page, page, 0]); // image, headers, checksum
    put16(&mut head, &[10, 0x160]); // EFI application; data is not executed, relocatable
    put32(&mut head, &[0; 8]); // stack and heap (64 bits each)
    put32(&mut head, &[0, 16]); // flags, directories
    put32(&mut head, &[0; 32]); // none of them
    head
}

fn section() -> Vec<u8> {
    let page = u32::try_from(PAGE).unwrap_or_default();
    let mut section = b".text\0\0\0".to_vec();
    put32(
        &mut section,
        &[page, page, page, page, 0, 0, 0, 0x6000_0020],
    ); // code, executed and read
    section
}

fn put16(bytes: &mut Vec<u8>, values: &[u16]) {
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn put32(bytes: &mut Vec<u8>, values: &[u32]) {
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_laid_out_as_it_says() {
        let file = arm_program();
        assert_eq!(file.len(), 2 * PAGE);
        assert_eq!(&file[0x80..0x86], b"PE\0\0\x64\xaa");
        // The head of the section stands where the sizes of the heads before it say.
        let at = 0x80 + 24 + 0xf0;
        assert_eq!(&file[at..at + 5], b".text");
        let text = PAGE + usize::try_from(CODE_SIZE).unwrap();
        assert_eq!(&file[text..text + 4], b"a\0r\0");
    }
}
