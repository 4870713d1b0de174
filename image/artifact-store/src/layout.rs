//! Where artifacts lie and what they are called: pure rules, no I/O.
//!
//! `<root>/<channel>/<arch>/<file>`. An architecture has several spellings, an artifact several usual file names. A name
//! that is asked for is tried as it stands first, so that nobody's directory has to be renamed.

use boot_manifest::{Arch, ArtifactName, Channel, FileName};

/// The file of a folder that holds its manifest.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The file of a folder that leads machines with an older trust root to the keys of its manifest.
pub const ROOTS_FILE: &str = "roots.json";

/// An artifact people know by a short name, the file names it usually has (best first), and how such names begin.
struct Known {
    artifact: &'static str,
    usual: &'static [&'static str],
    prefixes: &'static [&'static str],
}

const KNOWN: [Known; 4] = [
    Known {
        artifact: "kernel",
        usual: &["kernel", "vmlinuz", "vmlinuz-arm64", "bzImage", "Image"],
        prefixes: &["vmlinuz", "bzImage"],
    },
    Known {
        artifact: "initramfs",
        usual: &[
            "initramfs",
            "initramfs.img",
            "initrd",
            "initrd.img",
            "initramfs-arm64.img",
        ],
        prefixes: &["initramfs", "initrd"],
    },
    Known {
        artifact: "rootfs",
        usual: &["rootfs", "rootfs.img", "rootfs.squashfs"],
        prefixes: &["rootfs"],
    },
    Known {
        artifact: "uki",
        usual: &["uki", "phase.efi"],
        prefixes: &[],
    },
];

/// The spellings of `arch` in the order they are tried: as asked, then the others.
pub fn spellings(arch: Arch, asked: &str) -> Vec<&'static str> {
    let mut all = arch.aliases().to_vec();
    // Stable: the asked spelling moves to the front, the rest keep their order.
    all.sort_by_key(|spelling| *spelling != asked);
    all
}

/// The path of a folder, relative to the root.
pub(crate) fn folder_path(channel: &Channel, spelling: &str) -> String {
    format!("{channel}/{spelling}")
}

/// The files to try for `name`, in order: the name itself, then what else that artifact is usually called.
pub(crate) fn candidates(name: &FileName) -> Vec<&str> {
    let asked = name.as_str();
    let usual = KNOWN
        .iter()
        .find(|known| known.artifact == asked)
        .map_or(&[][..], |known| known.usual);
    let mut all = vec![asked];
    all.extend(usual.iter().filter(|usual| **usual != asked));
    all
}

/// What a file is for, by its name. Files that no artifact name can stand for have none.
pub(crate) fn artifact_of(file: &FileName) -> Option<ArtifactName> {
    let file = file.as_str();
    let known = KNOWN.iter().find(|known| {
        known.usual.contains(&file) || known.prefixes.iter().any(|prefix| file.starts_with(prefix))
    });
    known.map_or(file, |known| known.artifact).parse().ok()
}

/// How good a choice `file` is for `artifact`: lower is better; the same rank twice cannot be decided.
pub(crate) fn rank(artifact: &ArtifactName, file: &FileName) -> usize {
    let usual = KNOWN
        .iter()
        .find(|known| known.artifact == artifact.as_str())
        .map_or(&[][..], |known| known.usual);
    usual
        .iter()
        .position(|usual| *usual == file.as_str())
        .unwrap_or(usual.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_asked_spelling_is_tried_first() {
        for (asked, expected) in [
            ("x86_64", ["x86_64", "amd64"]),
            ("amd64", ["amd64", "x86_64"]),
            ("arm64", ["arm64", "aarch64"]),
            ("aarch64", ["aarch64", "arm64"]),
        ] {
            assert_eq!(
                spellings(asked.parse().unwrap(), asked),
                expected,
                "{asked}"
            );
        }
    }

    #[test]
    fn files_have_artifact_names() {
        for (file, expected) in [
            ("vmlinuz", Some("kernel")),
            ("vmlinuz-6.12.9", Some("kernel")),
            ("vmlinuz-arm64", Some("kernel")),
            ("bzImage", Some("kernel")),
            ("bzImage.new", Some("kernel")),
            ("kernel", Some("kernel")),
            ("Image", Some("kernel")),
            ("kernel-notes.txt", Some("kernel-notes.txt")),
            ("initramfs.img", Some("initramfs")),
            ("initrd", Some("initramfs")),
            ("initrd.img-6.12", Some("initramfs")),
            ("rootfs.squashfs", Some("rootfs")),
            ("rootfs.img", Some("rootfs")),
            ("dtb-bcm2711", Some("dtb-bcm2711")),
            ("phase.efi", Some("uki")),
            ("README", None),
        ] {
            let name = artifact_of(&file.parse().unwrap());
            assert_eq!(name.as_ref().map(ArtifactName::as_str), expected, "{file}");
        }
    }

    #[test]
    fn a_name_is_tried_as_it_stands_and_then_by_its_aliases() {
        let check = |asked: &str, expected: &[&str]| {
            assert_eq!(candidates(&asked.parse().unwrap()), expected, "{asked}");
        };
        check(
            "kernel",
            &["kernel", "vmlinuz", "vmlinuz-arm64", "bzImage", "Image"],
        );
        check("rootfs", &["rootfs", "rootfs.img", "rootfs.squashfs"]);
        check("uki", &["uki", "phase.efi"]);
        check("vmlinuz", &["vmlinuz"]);
        check("initramfs.img", &["initramfs.img"]);
    }

    #[test]
    fn usual_names_win_over_versioned_ones() {
        let kernel = "kernel".parse().unwrap();
        let rank = |file: &str| rank(&kernel, &file.parse().unwrap());
        assert!(rank("vmlinuz") < rank("bzImage"));
        assert!(rank("bzImage") < rank("vmlinuz-6.12"));
        assert_eq!(rank("vmlinuz-6.1"), rank("vmlinuz-6.12"));
    }
}
