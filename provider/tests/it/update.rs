//! The `update` role as init runs it: a socket pair instead of init, the real program, and sources good and bad.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::{Child, Command as Program, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use boot_manifest::handoff::{Command, ENV, Report};
use boot_manifest::{Timestamp, TrustRoot};
use rustix::fs::{SealFlags, fcntl_get_seals};
use rustix::net::{SendFlags, send, sockopt};

use crate::desk::image::Image;
use crate::desk::server::{Server, file};
use crate::desk::{days_ago, provider};
use crate::init_end;
use crate::provider::PLASMD;

mod hostile;
mod turns;

/// Nothing of the role takes longer; a limit against hanging only.
const LIMIT: Duration = Duration::from_secs(120);

/// A version of the image, of `sequence`; the same bytes whenever it is asked for.
fn numbered(sequence: u64) -> Arc<Image> {
    static CREATED: OnceLock<Timestamp> = OnceLock::new();
    let created = *CREATED.get_or_init(|| days_ago(0));
    let files = vec![
        ("initramfs", "initramfs.img", vec![1; 100]),
        ("kernel", "vmlinuz", sequence.to_le_bytes().to_vec()),
        ("rootfs", "rootfs.squashfs", vec![3; 100]),
    ];
    Arc::new(Image::numbered(sequence, created, files))
}

fn good(image: &Arc<Image>) -> Server {
    provider(image, |_, _, _| None)
}

/// The role at work on a machine that runs `image`, seen from init.
struct Role {
    child: Child,
    link: OwnedFd,
    _files: tempfile::TempDir,
}

/// A report and its descriptors.
type Received = (Report, Vec<OwnedFd>);

impl Role {
    /// Looks when it is told to, and seldom else.
    fn start(image: &Image, flags: &[&str]) -> Self {
        Self::start_as(image, &image.root(), flags, Program::new(PLASMD))
    }

    fn start_as(image: &Image, root: &TrustRoot, flags: &[&str], mut program: Program) -> Self {
        let files = tempfile::tempdir().expect("a directory");
        let path = |name: &str| files.path().join(name);
        fs::write(path("trust-root.json"), root.to_json()).expect("a file");
        fs::write(path("manifest.json"), &image.manifest).expect("a file");
        let info = r#"{"name":"phase","version":"0.1.0","built_at":1795000000,"floor":{"security_version":1,"sequence":0}}"#;
        fs::write(path("image.json"), info).expect("a file");
        let (ours, theirs) = init_end::pair();
        sockopt::set_socket_timeout(&ours, sockopt::Timeout::Recv, Some(LIMIT))
            .expect("a socket has time-outs");
        let child = program
            .args(["update", "--channel", "stable", "--arch", "x86_64"])
            .arg("--running")
            .arg(path("manifest.json"))
            .arg("--trust-root")
            .arg(path("trust-root.json"))
            .arg("--image-info")
            .arg(path("image.json"))
            .args(flags)
            .env(ENV, theirs.as_raw_fd().to_string())
            .env("RUST_LOG", "debug")
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let role = Self {
            child,
            link: ours,
            _files: files,
        };
        role.until(|report| matches!(report, Report::Ready {}));
        role
    }

    fn say(&self, command: &Command) {
        send(&self.link, &command.encode(), SendFlags::empty()).expect("it listens");
    }

    fn next(&self) -> Received {
        init_end::receive(&self.link).expect("a report")
    }

    /// The reports until one that is wanted, that one last.
    fn until(&self, is_last: impl Fn(&Report) -> bool) -> Vec<Received> {
        let mut reports = Vec::new();
        while reports.last().is_none_or(|(report, _)| !is_last(report)) {
            reports.push(self.next());
        }
        reports
    }

    /// Has it look; the reports until the offer, or why there is none.
    fn check(&self) -> Vec<Received> {
        self.say(&Command::CheckNow {});
        self.until(|report| matches!(report, Report::Offer { .. } | Report::Checked { .. }))
    }

    /// Has it look where there is nothing newer: code and whether the updater works.
    fn checked(&self) -> (String, bool) {
        match self.check().pop() {
            Some((Report::Checked { code, ok, .. }, _)) => (code, ok),
            other => panic!("another report: {other:?}"),
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// The bytes of sealed memory.
fn sealed(fd: &OwnedFd) -> Vec<u8> {
    let needed = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    assert!(fcntl_get_seals(fd).expect("it has seals").contains(needed));
    let mut file = File::from(fd.try_clone().expect("a copy"));
    file.rewind().expect("memory");
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("memory");
    bytes
}

/// Where the offer comes from, and its manifest.
#[track_caller]
fn offered(received: Option<&Received>) -> (String, Vec<u8>) {
    match received {
        Some((Report::Offer { origin }, fds)) => (origin.clone(), sealed(&fds[0])),
        other => panic!("no offer: {other:?}"),
    }
}

#[test]
fn a_newer_manifest_is_offered_in_sealed_memory() {
    let (running, newer) = (numbered(7), numbered(8));
    let server = good(&newer);
    let role = Role::start(
        &running,
        &["--no-mdns", "--http-port=1", "--origin", &server.url("")],
    );
    let reports = role.check();
    assert_eq!(reports[0].0, Report::Neighbours { live: 0, same: 0 });
    let (origin, manifest) = offered(reports.last());
    assert_eq!(origin, server.url(""));
    assert!(manifest == newer.manifest);
    assert_eq!(reports.last().unwrap().1.len(), 1, "no chain is needed");
}

#[test]
fn it_looks_by_itself_and_again() {
    let (running, newer) = (numbered(7), numbered(8));
    let server = good(&newer);
    let flags = [
        "--no-mdns",
        "--http-port=1",
        "--poll=1",
        "--from",
        &server.url(""),
    ];
    let role = Role::start(&running, &flags);
    for _ in 0..2 {
        let reports = role.until(|report| matches!(report, Report::Offer { .. }));
        assert!(offered(reports.last()).1 == newer.manifest);
    }
}

#[test]
fn what_runs_and_what_is_older_is_no_offer() {
    let running = numbered(7);
    let servers = [numbered(7), numbered(6)].map(|image| good(&image));
    let urls = servers.each_ref().map(|server| server.url(""));
    let flags = [
        "--no-mdns",
        "--http-port=1",
        "--from",
        &urls[0],
        "--from",
        &urls[1],
    ];
    let role = Role::start(&running, &flags);
    assert_eq!(role.checked(), ("current".to_owned(), true));
}

#[test]
fn several_newer_ones_are_offered_newest_first_and_once_each() {
    let running = numbered(7);
    let servers = [9, 8, 9].map(|sequence| good(&numbered(sequence)));
    let urls = servers.each_ref().map(|server| server.url(""));
    let from: Vec<String> = urls.iter().map(|url| format!("--from={url}")).collect();
    let mut flags = vec!["--no-mdns", "--http-port=1"];
    flags.extend(from.iter().map(String::as_str));
    let role = Role::start(&running, &flags);
    assert!(offered(role.check().last()).1 == numbered(9).manifest);
    let next = role.next();
    assert!(offered(Some(&next)).1 == numbered(8).manifest);
    // The next look begins; there was no third offer.
    role.say(&Command::CheckNow {});
    assert!(matches!(role.next().0, Report::Neighbours { .. }));
}

#[test]
fn a_source_that_nobody_can_name_costs_nothing() {
    let running = numbered(7);
    let server = good(&numbered(8));
    let flags = [
        "--no-mdns",
        "--http-port=1",
        "--from=nonsense",
        "--from",
        &server.url(""),
    ];
    let role = Role::start(&running, &flags);
    assert!(offered(role.check().last()).1 == numbered(8).manifest);
}

#[test]
fn alone_it_proves_itself_with_its_own_manifest() {
    let running = numbered(7);
    let own = good(&running);
    let port = own.url("").rsplit(':').next().unwrap().to_owned();
    let port = format!("--http-port={port}");
    // Its own address, by whatever way it hears of it, is no source.
    let role = Role::start(&running, &["--no-mdns", &port, "--from", &own.url("")]);
    assert_eq!(role.checked(), ("no-source".to_owned(), true));
    let targets: Vec<String> = own.requests().into_iter().map(|one| one.target).collect();
    assert_eq!(targets, ["/stable/x86_64/manifest.json"]);
}

#[test]
fn alone_with_a_server_that_serves_something_else_it_proves_nothing() {
    let running = numbered(7);
    let mut manifest = running.manifest.clone();
    let at = manifest.len() / 2;
    manifest[at] ^= 1;
    let own = Server::start(move |request, stream| file(request, stream, &manifest));
    let port = own.url("").rsplit(':').next().unwrap().to_owned();
    let role = Role::start(&running, &["--no-mdns", &format!("--http-port={port}")]);
    let (_, ok) = role.checked();
    assert!(!ok);
    drop(own);
    assert_eq!(role.checked(), ("unreachable".to_owned(), false));
}

#[test]
fn a_role_whose_init_is_gone_ends() {
    let running = numbered(7);
    let mut role = Role::start(&running, &["--no-mdns", "--http-port=1"]);
    let (other, _) = init_end::pair();
    role.link = other;
    let end = Instant::now() + LIMIT;
    while role.child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "it goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
}
