//! Adds sections to a PE32+ program: the one operation a unified kernel image needs.
//!
//! Not a general PE editor. It keeps the program's own sections where they are, drops the symbol table behind them, appends
//! new read-only data sections and fixes the three header fields that depend on them. Every offset is checked: a damaged or
//! foreign stub is an error, never a broken image.

/// Size of one entry of the section table.
const SECTION_HEADER_BYTES: usize = 40;

/// Initialised data, readable.
const CHARACTERISTICS: u32 = 0x4000_0040;

/// New sections start on a page whatever the stub's own alignment is.
const PAGE_BYTES: u32 = 4096;

/// A section to add.
#[derive(Debug, Clone, Copy)]
pub struct Section<'a> {
    /// Its name, at most eight bytes.
    pub name: &'a str,
    /// Its content.
    pub content: &'a [u8],
}

/// Why sections cannot be added.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The bytes are no 64-bit PE program, or its headers contradict themselves.
    #[error("the EFI stub is not usable: {0}")]
    Stub(&'static str),
    /// The header has no room for another entry of the section table.
    #[error("the EFI stub's header has room for {room} more sections, {wanted} are wanted")]
    NoRoom {
        /// Free entries.
        room: usize,
        /// Sections asked for.
        wanted: usize,
    },
    /// A name of no or more than eight bytes, or one that is there already.
    #[error("{name:?} cannot be a section's name: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The image would pass 2 GiB, more than firmware loads.
    #[error("the image would be larger than 2 GiB")]
    TooBig,
}

/// The offsets of the headers this module reads and writes.
struct Layout {
    coff: usize,
    optional: usize,
    table: usize,
    sections: usize,
    header_bytes: usize,
    file_alignment: u32,
    section_alignment: u32,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(
        bytes.get(at..at.checked_add(2)?)?.try_into().ok()?,
    ))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn align(value: u32, to: u32) -> Result<u32, Error> {
    value
        .checked_next_multiple_of(to)
        .filter(|value| *value <= i32::MAX as u32)
        .ok_or(Error::TooBig)
}

fn layout(stub: &[u8]) -> Result<Layout, Error> {
    let cut = || Error::Stub("its headers are cut short");
    if stub.get(..2) != Some(b"MZ") {
        return Err(Error::Stub("it does not start with MZ"));
    }
    let pe = u32_at(stub, 0x3c).ok_or_else(cut)? as usize;
    if stub.get(pe..pe.saturating_add(4)) != Some(b"PE\0\0") {
        return Err(Error::Stub("it has no PE signature"));
    }
    let coff = pe + 4;
    let optional = coff + 20;
    if u16_at(stub, optional).ok_or_else(cut)? != 0x20b {
        return Err(Error::Stub("it is not PE32+"));
    }
    let optional_bytes = usize::from(u16_at(stub, coff + 16).ok_or_else(cut)?);
    let layout = Layout {
        coff,
        optional,
        table: optional + optional_bytes,
        sections: usize::from(u16_at(stub, coff + 2).ok_or_else(cut)?),
        section_alignment: u32_at(stub, optional + 32).ok_or_else(cut)?,
        file_alignment: u32_at(stub, optional + 36).ok_or_else(cut)?,
        header_bytes: u32_at(stub, optional + 60).ok_or_else(cut)? as usize,
    };
    if !layout.file_alignment.is_power_of_two() || !layout.section_alignment.is_power_of_two() {
        return Err(Error::Stub("its alignments are no powers of two"));
    }
    let table_end = layout.table + layout.sections * SECTION_HEADER_BYTES;
    if layout.header_bytes > stub.len() || table_end > layout.header_bytes || layout.sections == 0 {
        return Err(Error::Stub("its section table does not fit its header"));
    }
    Ok(layout)
}

/// Returns `stub` with `sections` appended in order.
///
/// # Errors
/// See [`Error`].
pub fn add_sections(stub: &[u8], sections: &[Section<'_>]) -> Result<Vec<u8>, Error> {
    let layout = layout(stub)?;
    let (file_end, memory_end) = ends(stub, &layout)?;
    check_names(stub, &layout, sections)?;

    let mut image = stub[..file_end].to_vec();
    let mut address = memory_end;
    for (index, section) in sections.iter().enumerate() {
        address = align(address, layout.section_alignment.max(PAGE_BYTES))?;
        let size = u32::try_from(section.content.len()).map_err(|_| Error::TooBig)?;
        let raw_size = align(size, layout.file_alignment)?;
        let raw_start = align(
            u32::try_from(image.len()).map_err(|_| Error::TooBig)?,
            layout.file_alignment,
        )?;
        image.resize(raw_start as usize, 0);
        image.extend_from_slice(section.content);
        image.resize(raw_start as usize + raw_size as usize, 0);

        let header = layout.table + (layout.sections + index) * SECTION_HEADER_BYTES;
        let entry = &mut image[header..header + SECTION_HEADER_BYTES];
        entry.fill(0);
        entry[..section.name.len()].copy_from_slice(section.name.as_bytes());
        for (at, value) in [
            (8, size),
            (12, address),
            (16, raw_size),
            (20, raw_start),
            (36, CHARACTERISTICS),
        ] {
            put_u32(entry, at, value);
        }
        address = address.checked_add(size).ok_or(Error::TooBig)?;
    }

    let count = u16::try_from(layout.sections + sections.len()).map_err(|_| Error::TooBig)?;
    image[layout.coff + 2..layout.coff + 4].copy_from_slice(&count.to_le_bytes());
    // The symbol table lay behind the last section and is gone.
    put_u32(&mut image, layout.coff + 8, 0);
    put_u32(&mut image, layout.coff + 12, 0);
    put_u32(
        &mut image,
        layout.optional + 56,
        align(address, layout.section_alignment.max(PAGE_BYTES))?,
    );
    // The checksum is of the stub alone; firmware does not look at it, and 0 means "none".
    put_u32(&mut image, layout.optional + 64, 0);
    Ok(image)
}

/// Where the stub's own sections end in the file and in memory.
fn ends(stub: &[u8], layout: &Layout) -> Result<(usize, u32), Error> {
    let (mut file_end, mut memory_end) = (layout.header_bytes, 0);
    for index in 0..layout.sections {
        let header = &stub[layout.table + index * SECTION_HEADER_BYTES..][..SECTION_HEADER_BYTES];
        let field = |at| u32_at(header, at).expect("a section header has 40 bytes");
        let (virtual_size, address, raw_size, raw_start) =
            (field(8), field(12), field(16), field(20));
        let in_memory = address
            .checked_add(virtual_size.max(raw_size))
            .ok_or(Error::TooBig)?;
        memory_end = memory_end.max(in_memory);
        file_end = file_end.max(raw_start as usize + raw_size as usize);
    }
    if file_end > stub.len() {
        return Err(Error::Stub("a section lies beyond its end"));
    }
    Ok((file_end, memory_end))
}

fn check_names(stub: &[u8], layout: &Layout, sections: &[Section<'_>]) -> Result<(), Error> {
    let first_raw = (0..layout.sections)
        .filter_map(|index| u32_at(stub, layout.table + index * SECTION_HEADER_BYTES + 20))
        .filter(|start| *start != 0)
        .min()
        .map_or(layout.header_bytes, |start| {
            (start as usize).min(layout.header_bytes)
        });
    let room = first_raw.saturating_sub(layout.table) / SECTION_HEADER_BYTES - layout.sections;
    if sections.len() > room {
        return Err(Error::NoRoom {
            room,
            wanted: sections.len(),
        });
    }
    let mut taken: Vec<&[u8]> = (0..layout.sections)
        .map(|index| &stub[layout.table + index * SECTION_HEADER_BYTES..][..8])
        .map(|name| name.split(|byte| *byte == 0).next().unwrap_or_default())
        .collect();
    for section in sections {
        let error = |why| {
            Err(Error::Name {
                name: section.name.into(),
                why,
            })
        };
        if section.name.is_empty() || section.name.len() > 8 {
            return error("it must have one to eight bytes");
        }
        if taken.contains(&section.name.as_bytes()) {
            return error("the image has a section of this name already");
        }
        taken.push(section.name.as_bytes());
    }
    Ok(())
}

/// A section as it stands in an image: for `inspect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<'a> {
    /// Name with the padding removed.
    pub name: String,
    /// The content, without the padding to the file alignment.
    pub content: &'a [u8],
}

/// Lists the sections of an image.
///
/// # Errors
/// When the bytes are no PE32+ program.
pub fn sections(image: &[u8]) -> Result<Vec<Found<'_>>, Error> {
    let layout = layout(image)?;
    (0..layout.sections)
        .map(|index| {
            let header =
                &image[layout.table + index * SECTION_HEADER_BYTES..][..SECTION_HEADER_BYTES];
            let field = |at| u32_at(header, at).expect("a section header has 40 bytes") as usize;
            let (virtual_size, raw_size, raw_start) = (field(8), field(16), field(20));
            let content = image
                .get(raw_start..raw_start + virtual_size.min(raw_size))
                .ok_or(Error::Stub("a section lies beyond its end"))?;
            Ok(Found {
                name: String::from_utf8_lossy(&header[..8])
                    .trim_end_matches('\0')
                    .into(),
                content,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest program the code above accepts: one section, room for two more.
    fn stub() -> Vec<u8> {
        let mut stub = vec![0; 0x400];
        stub[..2].copy_from_slice(b"MZ");
        put_u32(&mut stub, 0x3c, 0x40);
        stub[0x40..0x44].copy_from_slice(b"PE\0\0");
        stub[0x46..0x48].copy_from_slice(&1u16.to_le_bytes());
        stub[0x54..0x56].copy_from_slice(&112u16.to_le_bytes());
        stub[0x58..0x5a].copy_from_slice(&0x20bu16.to_le_bytes());
        put_u32(&mut stub, 0x58 + 32, 0x1000);
        put_u32(&mut stub, 0x58 + 36, 0x200);
        put_u32(&mut stub, 0x58 + 60, 0x140);
        let table = 0x58 + 112;
        stub[table..table + 5].copy_from_slice(b".text");
        for (at, value) in [(8, 0x10), (12, 0x1000), (16, 0x200), (20, 0x200)] {
            put_u32(&mut stub, table + at, value);
        }
        stub
    }

    #[test]
    fn sections_are_appended_and_found_again() {
        let added = [
            Section {
                name: ".cmdline",
                content: b"quiet",
            },
            Section {
                name: ".linux",
                content: &[7; 5000],
            },
        ];
        let image = add_sections(&stub(), &added).unwrap();
        let found = sections(&image).unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!(
            (found[1].name.as_str(), found[1].content),
            (".cmdline", &b"quiet"[..])
        );
        assert_eq!(
            (found[2].name.as_str(), found[2].content),
            (".linux", &[7; 5000][..])
        );
        assert_eq!(image.len() % 0x200, 0);
        // .text 0x1000..0x1200, .cmdline at 0x2000, .linux at 0x3000..0x4388
        assert_eq!(u32_at(&image, 0x58 + 56), Some(0x5000));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let section = |name| Section {
            name,
            content: b"x",
        };
        let check = |sections: &[Section<'_>], expected: &str| {
            let message = add_sections(&stub(), sections).unwrap_err().to_string();
            assert!(
                message.contains(expected),
                "{message:?} should say {expected:?}"
            );
        };
        check(
            &[section(".a"), section(".b"), section(".c")],
            "room for 2 more",
        );
        check(&[section(".toolongname")], "one to eight");
        check(&[section("")], "one to eight");
        check(&[section(".text")], "already");
        check(&[section(".a"), section(".a")], "already");
    }

    #[test]
    fn a_damaged_stub_is_an_error_and_never_a_panic() {
        let good = stub();
        let section = [Section {
            name: ".x",
            content: b"x",
        }];
        for length in 0..good.len() {
            let _ = add_sections(&good[..length], &section);
        }
        for at in 0..0x140 {
            for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                let mut damaged = good.clone();
                damaged[at] = value;
                let _ = add_sections(&damaged, &section);
                let _ = sections(&damaged);
            }
        }
        assert_eq!(
            add_sections(b"ELF", &section),
            Err(Error::Stub("it does not start with MZ"))
        );
        assert_eq!(
            add_sections(&good[..0x300], &section),
            Err(Error::Stub("a section lies beyond its end"))
        );
    }
}
