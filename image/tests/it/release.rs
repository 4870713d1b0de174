//! A release made out of an image: what is new, what stays, and what is refused.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use boot_manifest::{Expect, Expiry, Floor, Manifest, TrustRoot, verify};
use image::paths::Paths;
use image::release::{Options, Overlay, release};
use image::trust::Signers;
use image::{cpio, disk, grub, initramfs, squashfs, uki};

use crate::noise;
use crate::uki::{stub, uki_of};

/// Leaves a small image in `folder`, as a build would.
fn build(folder: &Path, stub: &[u8]) -> Paths {
    let paths = Paths::new(folder.into(), folder.join("old"));
    let signers = Signers::load(&paths, &[], None, None).unwrap();
    let kernel = noise(90_000, 9);
    let initramfs = initramfs::write(&initramfs::Recipe {
        init: b"init 1",
        plasmd: b"plasmd 1",
        trust_root: signers.root.to_json().as_bytes(),
        roots: b"",
        image_info: br#"{"name":"phase","version":"1","built_at":1}"#,
    })
    .unwrap();
    let uki = uki::write(&uki_of(stub, &kernel, &initramfs)).unwrap();
    let head = uki::head(&uki, &kernel, &initramfs).unwrap();
    let recipe = BTreeMap::from([
        ("stable/x86_64/vmlinuz".to_owned(), kernel.as_slice()),
        ("stable/x86_64/initramfs.img".to_owned(), &initramfs),
        ("stable/x86_64/phase.efi.head".to_owned(), head),
        ("licences/ipxe".to_owned(), b"terms"),
    ]);
    let mut rootfs = Cursor::new(Vec::new());
    squashfs::write(&recipe, &mut rootfs).unwrap();
    let parts: [(&str, &str, &[u8]); 4] = [
        ("kernel", "vmlinuz", &kernel),
        ("initramfs", "initramfs.img", &initramfs),
        ("uki", "phase.efi", &uki),
        ("rootfs", "rootfs.squashfs", rootfs.get_ref()),
    ];
    let manifest = signers.manifest(&parts, None).unwrap().bytes;
    for (_, name, bytes) in parts {
        std::fs::write(paths.output(name), bytes).unwrap();
    }
    std::fs::write(paths.output("manifest.json"), manifest).unwrap();
    paths
}

fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path());
    let files = files.filter(|path| path.is_file());
    files
        .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
        .collect()
}

/// What a machine with this trust root makes of the manifest in `folder`.
fn verified(folder: &Path, root: &TrustRoot) -> Manifest {
    let bytes = std::fs::read(folder.join("manifest.json")).unwrap();
    let expect = Expect {
        now: image::facts::signing_time().unwrap(),
        floor: Floor::default(),
        channel: None,
        arch: None,
        expiry: Expiry::Refuse,
    };
    (*verify(&bytes, root, &expect).unwrap()).clone()
}

#[test]
fn a_release_is_newer_changed_as_asked_and_the_old_image_stays() {
    let name = "a_release_is_newer_changed_as_asked_and_the_old_image_stays";
    let Some(stub) = stub() else {
        skip!(name, "{} is not installed", uki::STUB);
    };
    if !Path::new(grub::FOLDER).exists() {
        skip!(name, "{} is not installed", grub::FOLDER);
    }
    let folder = tempfile::tempdir().unwrap();
    let paths = build(folder.path(), &stub);
    let before = contents(paths.out());
    let out = folder.path().join("new");
    let program = folder.path().join("program");
    std::fs::write(&program, "init 2").unwrap();
    let mut options = Options {
        init: Some(program.clone()),
        overlay: vec![Overlay {
            path: "etc/phase/note".into(),
            file: program.clone(),
        }],
        cmdline_append: vec!["phase.upgrade=off".into()],
        fast: true,
        ..Options::new(paths.out(), &out, "2")
    };
    let released = release(&paths, &options).unwrap();
    assert_eq!(contents(paths.out()), before, "the old image was changed");

    let root = Signers::load(&paths, &[], None, None).unwrap().root;
    let (old, new) = (verified(paths.out(), &root), verified(&out, &root));
    assert!(new.sequence > old.sequence && new.sequence == released.sequence);
    assert_eq!((new.version.as_str(), new.channel), ("2", old.channel));
    assert_eq!(new.cmdline, format!("{} phase.upgrade=off", old.cmdline));
    for artifact in &new.artifacts {
        let bytes = std::fs::read(out.join(artifact.filename.as_str())).unwrap();
        assert_eq!(boot_manifest::Digest::of(&bytes), artifact.digest);
    }
    let rootfs = squashfs::read(&std::fs::read(out.join("rootfs.squashfs")).unwrap()).unwrap();
    assert!(rootfs.iter().any(|file| file.content == b"terms"));
    let initramfs = std::fs::read(out.join("initramfs.img")).unwrap();
    assert!(rootfs.iter().any(|file| file.content == initramfs));
    let frame = zstd::zstd_safe::find_frame_compressed_size(&initramfs).unwrap();
    let tree = cpio::unpack(&zstd::decode_all(&initramfs[..frame]).unwrap()).unwrap();
    let file = |path: &str| {
        let entry = tree.iter().find(|entry| entry.path == path).unwrap();
        match &entry.kind {
            cpio::Kind::File(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("{path} is {other:?}"),
        }
    };
    assert_eq!(file("init"), "init 2");
    assert_eq!(file("bin/plasmd"), "plasmd 1");
    assert_eq!(file("etc/phase/note"), "init 2");
    assert!(file("etc/phase/image.json").contains(r#""version":"2""#));
    let image = std::fs::read(out.join("phase.img")).unwrap();
    assert!(disk::read(Cursor::new(image)).unwrap().len() >= 3);

    // A release of the release is newer again; the key went along.
    let again = Options::new(&out, folder.path().join("newer"), "3");
    assert!(release(&paths, &again).unwrap().sequence > released.sequence);
    options.out = paths.out().to_owned();
    assert!(
        release(&paths, &options).is_err(),
        "it would write over the old image"
    );
    let stranger = Paths::new(folder.path().into(), folder.path().join("stranger"));
    Signers::load(&stranger, &[], None, None).unwrap();
    options.out = folder.path().join("refused");
    options.key = vec![stranger.keys().join("dev.key")];
    let error = format!("{:#}", release(&paths, &options).unwrap_err());
    assert!(error.contains("cannot sign for the trust root"), "{error}");
    assert!(!options.out.exists(), "something was written all the same");
}

#[test]
fn a_release_after_new_keys_carries_the_chain_and_publishes_it() {
    use boot_manifest::{Role, RoleName, SecretKey, append_link, draft_link, sign_link};

    let name = "a_release_after_new_keys_carries_the_chain_and_publishes_it";
    let Some(stub) = stub() else {
        skip!(name, "{} is not installed", uki::STUB);
    };
    let folder = tempfile::tempdir().unwrap();
    let paths = build(folder.path(), &stub);
    let old = Signers::load(&paths, &[], None, None).unwrap().root;
    let pem = std::fs::read_to_string(paths.keys().join("dev.key")).unwrap();
    let old_key = SecretKey::from_pem(&pem).unwrap();
    let new_key = SecretKey::from_seed([9; 32]);
    let role = Role::new(1, vec![new_key.public()]).unwrap();
    let next = old.successor().unwrap().with_role(RoleName::Release, role);
    let link = sign_link(&draft_link(&next).unwrap(), &[&old_key, &new_key]).unwrap();
    let (chain, _) = append_link(None, &link, &old).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let mut options = Options {
        key: vec![file("new.key", new_key.to_pem().as_bytes())],
        overlay: vec![Overlay {
            path: "etc/phase/roots.json".into(),
            file: file("roots.json", &chain),
        }],
        fast: true,
        ..Options::new(paths.out(), folder.path().join("new"), "2")
    };
    release(&paths, &options).unwrap();
    assert_eq!(verified(&options.out, &next).generation, 2);
    let read = |name: &str| std::fs::read(options.out.join(name)).unwrap();
    assert_eq!(read("roots.json"), chain);
    assert_eq!(read("trust-root.json"), old.to_json().into_bytes());
    // A release of that one needs no word about keys that were replaced.
    let from = options.out.clone();
    let again = Options {
        overlay: Vec::new(),
        out: folder.path().join("newer"),
        from: Some(from),
        ..options.clone()
    };
    release(&paths, &again).unwrap();
    assert_eq!(verified(&again.out, &next).generation, 2);
    options.out = folder.path().join("refused");
    options.key = vec![file("old.key", old_key.to_pem().as_bytes())];
    assert!(
        release(&paths, &options).is_err(),
        "the old key signs nothing any more"
    );
}
