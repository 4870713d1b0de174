//! The unified kernel image, read by the `object` crate.

use image::uki;
use object::{Object, ObjectSection};

use crate::noise;

/// The stub of the installed systemd, which the images are made with.
pub(crate) fn stub() -> Option<Vec<u8>> {
    std::fs::read(uki::STUB).ok()
}

pub(crate) fn uki_of<'a>(stub: &'a [u8], kernel: &'a [u8], initramfs: &'a [u8]) -> uki::Recipe<'a> {
    uki::Recipe {
        stub,
        os_release: "ID=phase\n",
        cmdline: "console=ttyS0",
        kernel,
        initramfs,
    }
}

pub(crate) fn check_uki(bytes: &[u8], sections: &[(&str, &[u8])]) {
    let program = object::read::pe::PeFile64::parse(bytes).unwrap();
    for (name, content) in sections {
        let section = program
            .section_by_name(name)
            .unwrap_or_else(|| panic!("no section {name}"));
        let data = section.data().unwrap();
        assert!(data.starts_with(content), "{name} differs");
        assert!(
            data[content.len()..].iter().all(|byte| *byte == 0),
            "{name} has something behind it"
        );
    }
    let mut spans: Vec<_> = program
        .sections()
        .map(|section| section.address()..section.address() + section.size())
        .collect();
    spans.sort_by_key(|span| span.start);
    for pair in spans.windows(2) {
        assert!(
            pair[0].end <= pair[1].start,
            "sections overlap in memory: {pair:x?}"
        );
    }
    let header = program.nt_headers().optional_header;
    let end = spans.last().unwrap().end - header.image_base.get(object::LittleEndian);
    let image = u64::from(header.size_of_image.get(object::LittleEndian));
    assert!(
        image >= end && image % 4096 == 0,
        "SizeOfImage {image:#x}, sections end at {end:#x}"
    );
}

#[test]
fn object_reads_the_unified_kernel_image() {
    let Some(stub) = stub() else {
        skip!(
            "object_reads_the_unified_kernel_image",
            "{} is not installed",
            uki::STUB
        );
    };
    let (kernel, initramfs) = (noise(1_000_001, 5), noise(333, 6));
    let bytes = uki::write(&uki_of(&stub, &kernel, &initramfs)).unwrap();
    check_uki(
        &bytes,
        &[
            (".osrel", b"ID=phase\n"),
            (".cmdline", b"console=ttyS0"),
            (".linux", &kernel),
            (".initrd", &initramfs),
        ],
    );
    let mut again = uki::head(&bytes, &kernel, &initramfs).unwrap().to_vec();
    for part in [&kernel, &initramfs] {
        again.extend_from_slice(part);
        again.resize(again.len().next_multiple_of(512), 0);
    }
    assert!(again == bytes, "the parts do not make the program");
    assert!(uki::head(&bytes, &kernel, &kernel).is_err());
    assert!(uki::head(&bytes[1..], &kernel, &initramfs).is_err());
    let old = object::read::pe::PeFile64::parse(stub.as_slice()).unwrap();
    let new = object::read::pe::PeFile64::parse(bytes.as_slice()).unwrap();
    for section in old.sections() {
        let kept = new.section_by_name(section.name().unwrap()).unwrap();
        assert_eq!(kept.address(), section.address());
        assert_eq!(kept.data().unwrap(), section.data().unwrap());
    }
    assert_eq!(new.entry(), old.entry());
}
