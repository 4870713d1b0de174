//! What `init` believes: nothing that it has not checked itself, with the trust root of its own image.
//!
//! Checked bytes must not change afterwards. A handoff therefore comes as memory files sealed against writing, growing,
//! shrinking and unsealing; a file from a disk is checked while it is copied into memory that only `init` can write.

use std::fs::File;
use std::os::unix::fs::FileExt;

use boot_manifest::handoff::HandoffRecord;
use boot_manifest::{
    Arch, Artifact, Channel, Digest, Expect, Expiry, Floor, Hasher, MANIFEST_SIZE_MAX, Manifest,
    ROOT_CHAIN_SIZE_MAX, Timestamp, TrustRoot, Verified,
};
use rustix::fs::SealFlags;

use crate::limits;
use crate::plan::{Refusal, Stop};

/// Called between the steps of long work; an error ends the work.
pub(crate) type Tick<'a> = &'a mut dyn FnMut() -> Result<(), Stop>;

/// Against what a manifest is checked.
#[derive(Debug, Clone)]
pub(crate) struct Policy<'a> {
    pub(crate) root: &'a TrustRoot,
    pub(crate) now: Timestamp,
    pub(crate) floor: Floor,
    /// `None`: any channel of this product.
    pub(crate) channel: Option<&'a Channel>,
    pub(crate) expiry: Expiry,
}

impl<'a> Policy<'a> {
    /// The same at the end of a root chain. The floor belongs to the generation of the root it was made for.
    pub(crate) fn after(&self, root: &'a TrustRoot) -> Self {
        let floor = if root.generation() == self.root.generation() {
            self.floor
        } else {
            Floor::default()
        };
        Policy {
            root,
            floor,
            ..self.clone()
        }
    }
}

/// Verifies a manifest for this machine.
pub(crate) fn manifest(bytes: &[u8], policy: &Policy<'_>) -> Result<Verified<Manifest>, Refusal> {
    let expect = Expect {
        now: policy.now,
        floor: policy.floor,
        channel: policy.channel,
        arch: Some(Arch::host()),
        expiry: policy.expiry,
    };
    boot_manifest::verify(bytes, policy.root, &expect)
        .map_err(|error| Refusal::new(error.code(), format!("manifest: {error}")))
}

/// The same for a manifest that came with a root chain; without one `roots` is empty.
pub(crate) fn chained_manifest(
    bytes: &[u8],
    roots: &[u8],
    policy: &Policy<'_>,
) -> Result<Verified<Manifest>, Refusal> {
    if roots.is_empty() {
        return manifest(bytes, policy);
    }
    let root = newest_root(roots, policy.root)?;
    manifest(bytes, &policy.after(&root))
}

/// Where a root chain leads from `start`.
pub(crate) fn newest_root(roots: &[u8], start: &TrustRoot) -> Result<TrustRoot, Refusal> {
    if roots.is_empty() {
        return Ok(start.clone());
    }
    boot_manifest::walk_roots(roots, start)
        .map_err(|error| Refusal::new(error.code(), error.to_string()))
}

/// The artifact called `name`, which an appliance needs.
pub(crate) fn artifact<'m>(manifest: &'m Manifest, name: &str) -> Result<&'m Artifact, Refusal> {
    manifest
        .artifact(name)
        .ok_or_else(|| Refusal::new("invalid-manifest", format!("the manifest names no {name}")))
}

/// A handoff whose every byte was checked.
#[derive(Debug)]
pub(crate) struct Handoff {
    pub(crate) manifest: Verified<Manifest>,
    pub(crate) kernel: File,
    pub(crate) initramfs: File,
    pub(crate) rootfs: File,
    /// The root chain that leads to the keys of the manifest; empty when none came.
    pub(crate) roots: Vec<u8>,
}

/// The files of a handoff, in this order. The root chain may follow as a fifth.
pub(crate) const HANDOFF_FILES: [&str; 4] = ["manifest", "kernel", "initramfs", "rootfs"];

/// What the fifth file is called.
pub(crate) const HANDOFF_ROOTS: &str = "roots";

/// Verifies everything that `stage` handed over, as if it had come from an attacker.
pub(crate) fn handoff(
    record: &HandoffRecord,
    files: Vec<File>,
    policy: &Policy<'_>,
    tick: Tick<'_>,
) -> Result<Handoff, Stop> {
    let bad = |reason: &str| Refusal::new("bad-handoff", reason);
    let mut files = files;
    let mut roots = Vec::new();
    let named = match record.fds.split_last() {
        Some((last, before)) if last == HANDOFF_ROOTS => {
            let file = files
                .pop()
                .ok_or_else(|| bad("the handoff brings no roots"))?;
            roots = sealed_file(HANDOFF_ROOTS, &file, ROOT_CHAIN_SIZE_MAX)?;
            before
        }
        _ => &record.fds[..],
    };
    if named != HANDOFF_FILES {
        return Err(bad("the handoff does not name manifest, kernel, initramfs, rootfs").into());
    }
    let files: [File; 4] = files
        .try_into()
        .map_err(|_| bad("the handoff does not bring four files"))?;
    let [manifest_file, kernel, initramfs, rootfs] = files;
    let bytes = sealed_file("manifest", &manifest_file, MANIFEST_SIZE_MAX)?;
    let manifest = chained_manifest(&bytes, &roots, policy)?;
    for (name, file) in [
        ("kernel", &kernel),
        ("initramfs", &initramfs),
        ("rootfs", &rootfs),
    ] {
        sealed(name, file)?;
        same_bytes(name, file, artifact(&manifest, name)?, tick)?;
    }
    Ok(Handoff {
        manifest,
        kernel,
        initramfs,
        rootfs,
        roots,
    })
}

/// The bytes of a small file that was handed over.
fn sealed_file(name: &str, file: &File, size_max: usize) -> Result<Vec<u8>, Refusal> {
    sealed(name, file)?;
    let size = usize::try_from(size(name, file)?)
        .ok()
        .filter(|size| *size <= size_max);
    let size = size
        .ok_or_else(|| Refusal::new("too-large", format!("{name}: more than {size_max} bytes")))?;
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, 0)
        .map_err(|error| io(name, &error))?;
    Ok(bytes)
}

/// Nobody can change the file any more.
pub(crate) fn sealed(name: &str, file: &File) -> Result<(), Refusal> {
    let needed = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    // Files that are no memory files answer with an error: they cannot be sealed.
    let seals = rustix::fs::fcntl_get_seals(file).unwrap_or(SealFlags::empty());
    if seals.contains(needed) {
        return Ok(());
    }
    Err(Refusal::new(
        "not-sealed",
        format!("{name}: the file that was handed over can still be changed"),
    ))
}

/// The file has exactly the signed size and the signed digest.
pub(crate) fn same_bytes(
    name: &str,
    file: &File,
    artifact: &Artifact,
    tick: Tick<'_>,
) -> Result<(), Stop> {
    let found = size(name, file)?;
    if found != artifact.size {
        let reason = format!("{name}: {found} bytes; the manifest says {}", artifact.size);
        return Err(Refusal::new("bad-size", reason).into());
    }
    let mut hasher = Hasher::new();
    for_each_step(name, file, 0, artifact.size, tick, |bytes| {
        hasher.update(bytes);
        Ok(())
    })?;
    same_digest(name, hasher.finish(), artifact.digest)?;
    Ok(())
}

/// Compares a computed digest with the signed one.
pub(crate) fn same_digest(name: &str, found: Digest, signed: Digest) -> Result<(), Refusal> {
    if found == signed {
        return Ok(());
    }
    Err(Refusal::new(
        "bad-hash",
        format!("{name}: the bytes are not the signed ones ({found} instead of {signed})"),
    ))
}

/// Reads `size` bytes from `offset` in steps, and ticks between them.
pub(crate) fn for_each_step(
    name: &str,
    file: &File,
    offset: u64,
    size: u64,
    tick: Tick<'_>,
    mut use_step: impl FnMut(&[u8]) -> Result<(), Refusal>,
) -> Result<(), Stop> {
    let mut step = vec![0; limits::STEP_SIZE];
    let mut done = 0;
    while done < size {
        let length = usize::try_from(size - done).map_or(step.len(), |left| left.min(step.len()));
        let read = read_up_to(file, &mut step[..length], offset + done)
            .map_err(|error| io(name, &error))?;
        if read < length {
            return Err(ends_early(name, done + read as u64, size).into());
        }
        use_step(&step[..length])?;
        done += length as u64;
        tick()?;
    }
    Ok(())
}

/// Fills `bytes` from `offset`, or reads to the end; returns how many bytes there were.
pub(crate) fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// A disk or a file that is shorter than what it should hold.
pub(crate) fn ends_early(name: &str, found: u64, wanted: u64) -> Refusal {
    Refusal::new(
        "bad-size",
        format!("{name}: ends after {found} of {wanted} bytes"),
    )
}

pub(crate) fn size(name: &str, file: &File) -> Result<u64, Refusal> {
    file.metadata()
        .map(|metadata| metadata.len())
        .map_err(|error| io(name, &error))
}

/// A read or write that failed.
pub(crate) fn io(name: &str, error: &std::io::Error) -> Refusal {
    Refusal::new("io", format!("{name}: {error}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use boot_manifest::{ArtifactHasher, SecretKey};
    use rustix::fs::MemfdFlags;

    use super::*;

    pub(crate) const NOW: i64 = 1_790_000_000;

    pub(crate) fn key() -> SecretKey {
        SecretKey::from_seed([7; 32])
    }

    pub(crate) fn policy(root: &TrustRoot) -> Policy<'_> {
        Policy {
            root,
            now: Timestamp::from_unix(NOW),
            floor: Floor::default(),
            channel: None,
            expiry: Expiry::Refuse,
        }
    }

    fn entry(name: &str, filename: &str, bytes: &[u8]) -> Artifact {
        let mut hasher = ArtifactHasher::new(bytes.len() as u64).unwrap();
        hasher.update(bytes);
        let (digest, chunks) = hasher.finish().unwrap();
        Artifact {
            name: name.parse().unwrap(),
            filename: filename.parse().unwrap(),
            size: bytes.len() as u64,
            digest,
            chunks,
        }
    }

    /// A manifest over three artifacts.
    pub(crate) fn manifest_for(kernel: &[u8], initramfs: &[u8], rootfs: &[u8]) -> Manifest {
        let mut artifacts = vec![
            entry("kernel", "vmlinuz", kernel),
            entry("initramfs", "initramfs.img", initramfs),
            entry("rootfs", "rootfs.squashfs", rootfs),
        ];
        artifacts.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        Manifest {
            generation: 1,
            sequence: 5,
            security_version: 1,
            version: "0.1.0".to_owned(),
            channel: "stable".parse().unwrap(),
            arch: Arch::host(),
            created_at: Timestamp::from_unix(NOW - 1000),
            expires_at: Timestamp::from_unix(NOW + 1000),
            cmdline: "panic=10".to_owned(),
            artifacts,
        }
    }

    const KERNEL: &[u8] = b"kernel bytes";
    const INITRAMFS: &[u8] = b"initramfs";
    const ROOTFS: &[u8] = b"hsqs rootfs";

    fn memory_file(bytes: &[u8], seals: SealFlags) -> File {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(rustix::fs::memfd_create("test", flags).unwrap());
        file.write_all(bytes).unwrap();
        rustix::fs::fcntl_add_seals(&file, seals).unwrap();
        file
    }

    fn all_seals() -> SealFlags {
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE
    }

    fn record() -> HandoffRecord {
        HandoffRecord {
            origin: "http://a".to_owned(),
            fds: HANDOFF_FILES
                .iter()
                .map(|name| (*name).to_owned())
                .collect(),
        }
    }

    fn signed() -> Vec<u8> {
        boot_manifest::sign(&manifest_for(KERNEL, INITRAMFS, ROOTFS), &[&key()]).unwrap()
    }

    #[track_caller]
    fn check_with(record: &HandoffRecord, files: Vec<File>, now: i64, expected: Result<(), &str>) {
        let root = TrustRoot::single(key().public());
        let mut policy = policy(&root);
        policy.now = Timestamp::from_unix(now);
        let mut ticks = 0;
        let result = handoff(record, files, &policy, &mut || {
            ticks += 1;
            Ok(())
        });
        match (&result, expected) {
            (Ok(_), Ok(())) => assert!(ticks >= 3, "the loop is served between steps"),
            (Err(Stop::Refused(refusal)), Err(code)) => {
                assert_eq!(refusal.code, code, "{}", refusal.reason)
            }
            _ => panic!("{result:?} instead of {expected:?}"),
        }
    }

    #[track_caller]
    fn check(contents: [&[u8]; 4], expected: Result<(), &str>) {
        let files = contents.map(|bytes| memory_file(bytes, all_seals()));
        check_with(&record(), files.into(), NOW, expected);
    }

    #[test]
    fn a_good_handoff_passes() {
        check([&signed(), KERNEL, INITRAMFS, ROOTFS], Ok(()));
    }

    #[test]
    fn changed_files_are_refused() {
        let signed = signed();
        check(
            [&signed, b"Kernel bytes", INITRAMFS, ROOTFS],
            Err("bad-hash"),
        );
        check([&signed, KERNEL, b"initramfz", ROOTFS], Err("bad-hash"));
        check(
            [&signed, KERNEL, INITRAMFS, b"hsqs rootfz"],
            Err("bad-hash"),
        );
        check(
            [&signed, b"kernel byte", INITRAMFS, ROOTFS],
            Err("bad-size"),
        );
        check(
            [&signed, b"kernel bytes+", INITRAMFS, ROOTFS],
            Err("bad-size"),
        );
        check([&signed, KERNEL, ROOTFS, INITRAMFS], Err("bad-size"));
        check([KERNEL, &signed, INITRAMFS, ROOTFS], Err("malformed"));
        check([b"", KERNEL, INITRAMFS, ROOTFS], Err("malformed"));
    }

    #[test]
    fn a_root_chain_leads_to_the_keys_of_the_manifest() {
        let new_key = SecretKey::from_seed([8; 32]);
        let start = TrustRoot::single(key().public());
        let role = boot_manifest::Role::new(1, vec![new_key.public()]).unwrap();
        let next = start
            .successor()
            .unwrap()
            .with_role(boot_manifest::RoleName::Release, role);
        let draft = boot_manifest::draft_link(&next).unwrap();
        let link = boot_manifest::sign_link(&draft, &[&key(), &new_key]).unwrap();
        let (chain, _) = boot_manifest::append_link(None, &link, &start).unwrap();

        let mut manifest = manifest_for(KERNEL, INITRAMFS, ROOTFS);
        manifest.generation = 2;
        let renewed = boot_manifest::sign(&manifest, &[&new_key]).unwrap();
        let files = |manifest: &[u8], roots: &[u8]| {
            [manifest, KERNEL, INITRAMFS, ROOTFS, roots]
                .map(|bytes| memory_file(bytes, all_seals()))
                .into()
        };
        let mut record = record();
        record.fds.push(HANDOFF_ROOTS.to_owned());
        check_with(&record, files(&renewed, &chain), NOW, Ok(()));
        // Once the keys were replaced, the old ones count no more.
        check_with(&record, files(&signed(), &chain), NOW, Err("unknown-key"));
        let mut torn = chain.clone();
        torn.truncate(torn.len() / 2);
        check_with(&record, files(&renewed, &torn), NOW, Err("roots-malformed"));
        check([&renewed, KERNEL, INITRAMFS, ROOTFS], Err("unknown-key"));
        let mut unsealed: Vec<File> = files(&renewed, &chain);
        unsealed[4] = memory_file(&chain, SealFlags::SHRINK);
        check_with(&record, unsealed, NOW, Err("not-sealed"));
        record.fds.swap(0, 4);
        check_with(&record, files(&renewed, &chain), NOW, Err("bad-handoff"));
    }

    #[test]
    fn swapped_files_of_one_size_are_refused() {
        let manifest = manifest_for(b"aaaa", b"bbbb", b"cccc");
        let signed = boot_manifest::sign(&manifest, &[&key()]).unwrap();
        check([&signed, b"aaaa", b"bbbb", b"cccc"], Ok(()));
        check([&signed, b"bbbb", b"aaaa", b"cccc"], Err("bad-hash"));
        check([&signed, b"aaaa", b"cccc", b"bbbb"], Err("bad-hash"));
    }

    #[test]
    fn a_manifest_that_does_not_verify_is_refused() {
        let other = SecretKey::from_seed([8; 32]);
        let manifest = manifest_for(KERNEL, INITRAMFS, ROOTFS);
        let foreign = boot_manifest::sign(&manifest, &[&other]).unwrap();
        check([&foreign, KERNEL, INITRAMFS, ROOTFS], Err("unknown-key"));

        let files = || {
            [&signed()[..], KERNEL, INITRAMFS, ROOTFS]
                .map(|bytes| memory_file(bytes, all_seals()))
                .into()
        };
        check_with(&record(), files(), NOW + 5000, Err("expired"));
        check_with(&record(), files(), NOW - 10 * 86_400, Err("not-yet-valid"));
    }

    #[test]
    fn every_seal_is_needed_on_every_file() {
        let contents = [&signed()[..], KERNEL, INITRAMFS, ROOTFS];
        for missing in [
            SealFlags::SEAL,
            SealFlags::SHRINK,
            SealFlags::GROW,
            SealFlags::WRITE,
        ] {
            for position in 0..4 {
                let mut files: Vec<File> = Vec::new();
                for (index, bytes) in contents.iter().enumerate() {
                    let seals = if index == position {
                        all_seals() - missing
                    } else {
                        all_seals()
                    };
                    files.push(memory_file(bytes, seals));
                }
                check_with(&record(), files, NOW, Err("not-sealed"));
            }
        }
    }

    #[test]
    fn ordinary_files_and_pipes_are_refused() {
        let mut disk = tempfile::tempfile().unwrap();
        disk.write_all(KERNEL).unwrap();
        let (pipe, _writer) = std::io::pipe().unwrap();
        let pipe = File::from(std::os::fd::OwnedFd::from(pipe));
        for stranger in [disk, pipe] {
            let files = vec![
                memory_file(&signed(), all_seals()),
                stranger,
                memory_file(INITRAMFS, all_seals()),
                memory_file(ROOTFS, all_seals()),
            ];
            check_with(&record(), files, NOW, Err("not-sealed"));
        }
    }

    #[test]
    fn a_record_that_says_something_else_is_refused() {
        let files = |count: usize| {
            (0..count)
                .map(|_| memory_file(b"x", all_seals()))
                .collect::<Vec<_>>()
        };
        check_with(&record(), files(3), NOW, Err("bad-handoff"));
        check_with(&record(), files(5), NOW, Err("bad-handoff"));
        let mut swapped = record();
        swapped.fds.swap(1, 2);
        check_with(&swapped, files(4), NOW, Err("bad-handoff"));
        let mut short = record();
        short.fds.pop();
        check_with(&short, files(4), NOW, Err("bad-handoff"));
    }

    #[test]
    fn a_manifest_without_a_rootfs_is_refused() {
        let mut manifest = manifest_for(KERNEL, INITRAMFS, ROOTFS);
        manifest
            .artifacts
            .retain(|artifact| artifact.name.as_str() != "rootfs");
        let signed = boot_manifest::sign(&manifest, &[&key()]).unwrap();
        check(
            [&signed, KERNEL, INITRAMFS, ROOTFS],
            Err("invalid-manifest"),
        );
    }

    #[test]
    fn a_short_disk_says_where_it_ends() {
        let mut disk = tempfile::tempfile().unwrap();
        let length = limits::STEP_SIZE + 10;
        disk.write_all(&vec![7; length]).unwrap();
        let mut used = 0;
        let wanted = length as u64 + 5;
        let mut tick = || Ok(());
        let result = for_each_step("rootfs", &disk, 100, wanted, &mut tick, |bytes| {
            used += bytes.len();
            Ok(())
        });
        let reason = format!("rootfs: ends after {} of {wanted} bytes", length - 100);
        let refusal = Refusal::new("bad-size", reason);
        assert_eq!(result, Err(Stop::Refused(refusal)));
        assert!(used < length, "the short step was used");
    }

    #[test]
    fn a_request_to_end_ends_the_hashing() {
        let root = TrustRoot::single(key().public());
        let files =
            [&signed()[..], KERNEL, INITRAMFS, ROOTFS].map(|bytes| memory_file(bytes, all_seals()));
        let result = handoff(&record(), files.into(), &policy(&root), &mut || {
            Err(Stop::Ending)
        });
        assert!(matches!(result, Err(Stop::Ending)));
    }
}
