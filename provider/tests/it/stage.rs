//! The `stage` role as init runs it: a socket pair instead of init, and the real program.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use boot_manifest::handoff::{ENV, Report};
use boot_manifest::{Arch, Artifact, ChunkMap, Digest, Manifest, SecretKey, TrustRoot, sign};
use rustix::fs::{SealFlags, fcntl_get_seals};

use crate::desk::image::Image;
use crate::desk::server::{self, Server, Then, answer, file, partly};
use crate::desk::{days_ago, fresh_image, provider};
use crate::init_end;
use crate::provider::PLASMD;

mod wanted;

/// The role at work, seen from init.
struct Role {
    child: Child,
    link: OwnedFd,
    _files: tempfile::TempDir,
    list: Option<tempfile::TempDir>,
}

impl Role {
    fn start(provider: &str, root: &TrustRoot, floor: u64) -> Self {
        Self::start_with(&["--provider", provider], root, floor)
    }

    /// A role that has to look for its provider: boot servers named these.
    fn searching(named: &[String], root: &TrustRoot) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let list = folder.path().join("providers");
        fs::write(&list, named.join("\n")).expect("a file");
        let list = list.to_str().expect("a plain path");
        let mut role = Self::start_with(&["--providers-file", list, "--no-mdns"], root, 0);
        role.list = Some(folder);
        role
    }

    fn start_with(place: &[&str], root: &TrustRoot, floor: u64) -> Self {
        let files = tempfile::tempdir().expect("a directory");
        let path = |name: &str| files.path().join(name);
        fs::write(path("trust-root.json"), root.to_json()).expect("a file");
        let info = format!(
            r#"{{"name":"phase","version":"0.1.0","built_at":1795000000,"floor":{{"security_version":1,"sequence":{floor}}}}}"#
        );
        fs::write(path("image.json"), info).expect("a file");
        let (ours, theirs) = init_end::pair();
        let child = Command::new(PLASMD)
            .arg("stage")
            .args(place)
            .args(["--channel", "stable", "--arch", "x86_64", "--trust-root"])
            .arg(path("trust-root.json"))
            .arg("--image-info")
            .arg(path("image.json"))
            .env(ENV, theirs.as_raw_fd().to_string())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        Self {
            child,
            link: ours,
            _files: files,
            list: None,
        }
    }

    /// The next report; nothing when the role has ended.
    fn next(&self) -> Option<(Report, Vec<OwnedFd>)> {
        init_end::receive(&self.link)
    }

    /// Everything until the end, and the exit code.
    fn all(mut self) -> (Vec<(Report, Vec<OwnedFd>)>, Option<i32>) {
        let reports: Vec<_> = std::iter::from_fn(|| self.next()).collect();
        let code = self.child.wait().expect("it ends").code();
        (reports, code)
    }

    /// Expects the role to give up.
    fn refusal(self) -> (String, String) {
        let (reports, code) = self.all();
        assert_eq!(code, Some(1), "{reports:?}");
        assert!(
            reports
                .iter()
                .all(|(report, fds)| fds.is_empty() && !matches!(report, Report::Handoff(_))),
            "{reports:?}"
        );
        match reports.last() {
            Some((
                Report::Failed {
                    code,
                    reason,
                    retryable: false,
                },
                _,
            )) => (code.clone(), reason.clone()),
            _ => panic!("no reason was given: {reports:?}"),
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

#[test]
fn a_verified_image_is_handed_over_in_sealed_memory() {
    let image = Arc::new(fresh_image());
    let server = provider(&image, |_, _, _| None);
    let (reports, code) = Role::start(&server.url("/"), &image.root(), 0).all();
    assert_eq!(code, Some(0), "{reports:?}");
    let Some((Report::Handoff(record), fds)) = reports.last() else {
        panic!("no handoff: {reports:?}");
    };
    assert_eq!(record.fds, ["manifest", "kernel", "initramfs", "rootfs"]);
    assert_eq!(record.origin, server.url(""));
    let contents = [
        &image.manifest[..],
        image.content("kernel"),
        image.content("initramfs"),
        image.content("rootfs"),
    ];
    assert_eq!(fds.len(), contents.len());
    let needed = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    for ((fd, content), name) in fds.iter().zip(contents).zip(&record.fds) {
        assert!(fcntl_get_seals(fd).unwrap().contains(needed), "{name}");
        let mut file = File::from(fd.try_clone().unwrap());
        file.rewind().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert!(bytes == content, "{name}");
    }
    let parts = ["kernel", "initramfs", "rootfs"];
    let size: u64 = parts
        .map(|part| image.content(part).len() as u64)
        .iter()
        .sum();
    let done = |report: &Report| matches!(report, Report::Progress { what, done, total } if what == "image" && *done == size && *total == size);
    assert!(
        reports.iter().any(|(report, _)| done(report)),
        "{reports:?}"
    );
    let targets: Vec<_> = server
        .requests()
        .into_iter()
        .map(|request| request.target)
        .collect();
    assert_eq!(targets[0], "/stable/x86_64/manifest.json");
}

#[test]
fn what_may_pass_is_waited_out_and_told() {
    let image = Arc::new(fresh_image());
    let step = AtomicUsize::new(0);
    let server = provider(&image, move |request, stream, bytes| {
        let counts = ["/manifest.json", "/vmlinuz"].map(|file| request.target.ends_with(file));
        if !counts.contains(&true) {
            return None;
        }
        match step.fetch_add(1, Ordering::SeqCst) {
            // Not serving yet; then a cut in the middle of the kernel.
            0 => Some(answer(stream, "404 Not Found", "", b"")),
            2 => Some(partly(request, stream, bytes, 2 << 20)),
            _ => None,
        }
    });
    let (reports, code) = Role::start(&server.url(""), &image.root(), 0).all();
    assert_eq!(code, Some(0), "{reports:?}");
    let failed: Vec<_> = reports
        .iter()
        .filter_map(|(report, _)| match report {
            Report::Failed {
                code, retryable, ..
            } => Some((code.as_str(), *retryable)),
            _ => None,
        })
        .collect();
    assert_eq!(failed, [("not-found", true), ("cut-short", true)]);
    assert!(matches!(reports.last(), Some((Report::Handoff(_), fds)) if fds.len() == 4));
    let last = image.content("kernel").len() as u64 - 1;
    let mut ranges = server.ranges("/stable/x86_64/vmlinuz");
    assert_eq!(ranges.remove(0), None, "the first request is for all of it");
    let mut asked: Vec<(u64, u64)> = ranges.into_iter().flatten().collect();
    asked.sort_unstable();
    // What did not come before the cut is asked for once, in whichever order.
    let mut next = 2 << 20;
    for (first, end) in asked {
        assert_eq!(first, next, "chunks were fetched twice, or left out");
        next = end + 1;
    }
    assert_eq!(next, last + 1);
}

#[test]
fn a_provider_that_is_not_there_is_waited_for() {
    let image = Arc::new(fresh_image());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let role = Role::start(&format!("http://{address}"), &image.root(), 0);
    let (report, _) = role.next().expect("a report");
    assert!(
        matches!(&report, Report::Failed { code, retryable: true, .. } if code == "unreachable"),
        "{report:?}"
    );
    let theirs = Arc::clone(&image);
    let _late = Server::start_at(&address.to_string(), move |request, stream| {
        file(
            request,
            stream,
            theirs.at(&request.target).unwrap_or_default(),
        )
    });
    let (reports, code) = role.all();
    assert_eq!(code, Some(0), "{reports:?}");
}

/// The role's last word about a provider with a peculiarity.
fn check_refused(
    image: &Arc<Image>,
    root: &TrustRoot,
    floor: u64,
    special: impl Fn(&server::Request, &mut std::net::TcpStream, &[u8]) -> Option<Then>
    + Send
    + Sync
    + 'static,
    expected_code: &str,
    expected_text: &str,
) {
    let server = provider(image, special);
    let (code, reason) = Role::start(&server.url(""), root, floor).refusal();
    assert_eq!(code, expected_code, "{reason}");
    assert!(
        reason.contains(expected_text),
        "{expected_text:?} is missing: {reason}"
    );
}

/// Answers with one byte of a file flipped.
fn flipped(
    name: &'static str,
    at: usize,
) -> impl Fn(&server::Request, &mut std::net::TcpStream, &[u8]) -> Option<Then> {
    move |request, stream, bytes| {
        request.target.ends_with(name).then(|| {
            let mut bytes = bytes.to_vec();
            bytes[at] ^= 1;
            file(request, stream, &bytes)
        })
    }
}

#[test]
fn one_flipped_byte_in_any_file_is_refused() {
    let image = Arc::new(fresh_image());
    let root = image.root();
    check_refused(
        &image,
        &root,
        0,
        flipped("vmlinuz", 3 << 20),
        "bad-hash",
        "kernel (vmlinuz) chunk 3",
    );
    check_refused(
        &image,
        &root,
        0,
        flipped("initramfs.img", 999),
        "bad-hash",
        "initramfs (initramfs.img) chunk 0",
    );
    check_refused(
        &image,
        &root,
        0,
        flipped("rootfs.squashfs", 0),
        "bad-hash",
        "rootfs (rootfs.squashfs) chunk 0",
    );
    let text = String::from_utf8(image.manifest.clone()).unwrap();
    // A letter whose neighbour is a letter too, so that the base64 stays valid.
    let payload = text.find("\"payload\": \"").unwrap() + 20;
    let at = payload
        + text[payload..]
            .find(['b', 'd', 'f', 'h', 'B', 'D', 'F', 'H'])
            .unwrap();
    check_refused(
        &image,
        &root,
        0,
        flipped("manifest.json", at),
        "bad-signature",
        "invalid signature on manifest",
    );
}

#[test]
fn manifests_that_are_not_for_this_machine_are_refused() {
    let image = Arc::new(fresh_image());
    let stranger = TrustRoot::single(SecretKey::from_seed([8; 32]).public());
    check_refused(
        &image,
        &stranger,
        0,
        |_, _, _| None,
        "unknown-key",
        "which is not trusted here",
    );
    check_refused(
        &image,
        &image.root(),
        8,
        |_, _, _| None,
        "version-too-low",
        "sequence 7 is below the floor 8",
    );
    let expired = Arc::new(Image::of(days_ago(31), Image::new().files));
    check_refused(
        &expired,
        &expired.root(),
        0,
        |_, _, _| None,
        "expired",
        "the manifest expired at",
    );
    let only_kernel = Arc::new(Image::of(days_ago(0), vec![("kernel", "vmlinuz", vec![1])]));
    check_refused(
        &only_kernel,
        &only_kernel.root(),
        0,
        |_, _, _| None,
        "no-such-artifact",
        "initramfs",
    );
}

#[test]
fn servers_that_misbehave_are_refused() {
    let image = Arc::new(fresh_image());
    let root = image.root();
    let endless = |request: &server::Request, stream: &mut std::net::TcpStream, bytes: &[u8]| {
        request.target.ends_with("initramfs.img").then(|| {
            server::send(
                stream,
                format!(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
                    bytes.len()
                ),
            );
            server::send(stream, bytes);
            while server::send(stream, format!("\r\n1000\r\n{}", "x".repeat(0x1000))) {}
            Then::Close
        })
    };
    check_refused(&image, &root, 0, endless, "too-large", "1000 are expected");
    let elsewhere = |request: &server::Request, stream: &mut std::net::TcpStream, _: &[u8]| {
        request.target.ends_with("vmlinuz").then(|| {
            answer(
                stream,
                "302 Found",
                "Location: http://127.0.0.1:1/\r\n",
                b"",
            )
        })
    };
    check_refused(
        &image,
        &root,
        0,
        elsewhere,
        "refused-status",
        "0 redirects are followed",
    );
}

#[test]
fn an_image_larger_than_memory_is_refused_before_it_is_fetched() {
    let image = fresh_image();
    let huge = |name: &str, filename: &str| {
        let size = 64 << 30;
        let digest = Digest::of(b"nobody will ever see these bytes");
        Artifact {
            name: name.parse().unwrap(),
            filename: filename.parse().unwrap(),
            size,
            digest,
            chunks: ChunkMap::new(size, vec![digest; 1_024]).unwrap(),
        }
    };
    let manifest = Manifest {
        generation: 1,
        sequence: 1,
        security_version: 1,
        version: "1".to_owned(),
        channel: "stable".parse().unwrap(),
        arch: Arch::X86_64,
        created_at: days_ago(0),
        expires_at: days_ago(-1),
        cmdline: String::new(),
        artifacts: vec![
            huge("initramfs", "initramfs.img"),
            huge("kernel", "vmlinuz"),
            huge("rootfs", "rootfs.squashfs"),
        ],
    };
    let bytes = sign(&manifest, &[&image.key]).unwrap();
    let server = Server::start(move |request, stream| file(request, stream, &bytes));
    let (code, reason) = Role::start(&server.url(""), &image.root(), 0).refusal();
    assert_eq!(code, "not-enough-memory", "{reason}");
    assert!(
        reason.starts_with("the image needs 196640 MiB of memory, "),
        "{reason}"
    );
    let fetched = server
        .requests()
        .iter()
        .filter(|one| !is_report(one))
        .count();
    assert_eq!(fetched, 1, "it was fetched all the same");
}

fn is_report(request: &server::Request) -> bool {
    request.target.starts_with("/boot/report?")
}

/// What the provider was told: stages in the order they were reached, each with the rest of its query.
fn told(server: &Server) -> Vec<(String, String)> {
    let reports = server.requests().into_iter().filter(is_report);
    let parse = |request: server::Request| {
        let query = request
            .target
            .split_once("&stage=")
            .expect("a stage")
            .1
            .to_owned();
        let (stage, rest) = query.split_once('&').expect("an age");
        assert!(
            request.target.contains("?mac=00:00:00:00:00:00&"),
            "{query}"
        );
        (stage.to_owned(), rest.to_owned())
    };
    let mut told: Vec<_> = reports.map(parse).collect();
    told.sort();
    told
}

#[test]
fn the_provider_is_told_how_far_the_boot_came() {
    let image = Arc::new(fresh_image());
    let server = provider(&image, |_, _, _| None);
    let (reports, code) = Role::start(&server.url(""), &image.root(), 0).all();
    assert_eq!(code, Some(0), "{reports:?}");
    let stages: Vec<_> = told(&server).into_iter().map(|(stage, _)| stage).collect();
    assert_eq!(stages, ["fetched", "linux", "manifest"]);

    let flipped = Arc::clone(&image);
    let server = provider(&image, move |request, stream, bytes| {
        let is_kernel = request.target.ends_with("/vmlinuz");
        let mut wrong = flipped.content("kernel").to_vec();
        wrong[0] ^= 1;
        (is_kernel && !bytes.is_empty()).then(|| file(request, stream, &wrong))
    });
    Role::start(&server.url(""), &image.root(), 0).refusal();
    let failed = told(&server)
        .into_iter()
        .find(|(stage, _)| stage == "failed");
    let (_, rest) = failed.expect("the failure is told");
    assert!(rest.starts_with("ago=0&text=bad-hash%3A%20"), "{rest}");
}

#[test]
fn a_provider_is_found_among_liars() {
    let image = Arc::new(fresh_image());
    let honest = provider(&image, |_, _, _| None);
    let mut forged = image.manifest.clone();
    let middle = forged.len() / 2;
    forged[middle] = if forged[middle] == b'A' { b'B' } else { b'A' };
    let other = Server::start(move |request, stream| file(request, stream, &forged));
    let empty = Server::start(|_, stream| answer(stream, "404 Not Found", "", b""));
    let path = "/stable/x86_64/manifest.json";
    let named = [empty.url(path), other.url(path), honest.url(path)];
    let (reports, code) = Role::searching(&named, &image.root()).all();
    assert_eq!(code, Some(0), "{reports:?}");
    let Some((Report::Handoff(record), fds)) = reports.last() else {
        panic!("no handoff: {reports:?}");
    };
    assert_eq!(record.origin, honest.url(""));
    assert_eq!(fds.len(), 4);
    for liar in [&empty, &other] {
        let asked: Vec<_> = liar.requests().into_iter().map(|one| one.target).collect();
        assert_eq!(asked, [path], "it was asked for more than a manifest");
    }
}

#[test]
fn a_search_goes_on_until_somebody_is_named() {
    let image = Arc::new(fresh_image());
    let server = provider(&image, |_, _, _| None);
    let role = Role::searching(&[], &image.root());
    let list = role.list.as_ref().unwrap().path().join("providers");
    // It has read the empty list by the time it says that the first it finds there has nothing.
    let empty = Server::start(|_, stream| answer(stream, "404 Not Found", "", b""));
    fs::write(&list, format!("{}\n", empty.url("/manifest.json"))).unwrap();
    let (report, _) = role.next().expect("a report");
    assert!(
        matches!(&report, Report::Failed { code, retryable: true, .. } if code == "not-found"),
        "{report:?}"
    );
    fs::write(
        &list,
        format!("{}\n", server.url("/stable/x86_64/manifest.json")),
    )
    .unwrap();
    let (reports, code) = role.all();
    assert_eq!(code, Some(0), "{reports:?}");
}
